//! A pod from which a test sees the cluster as functions' clients do: names, Services, node ports.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::install;
use crate::kubectl::{Kubectl, Started};
use crate::region::images;

const NAME: &str = "client";
const PROGRAM: &str = include_str!("client_pod.py");

pub struct ClientPod {
    kubectl: Kubectl,
}

/// Where a client calls a function.
#[derive(Debug, Clone)]
pub struct Target {
    /// The name server it asks, at port 53.
    pub server: String,
    /// The function's name in the zone.
    pub host: String,
    pub path: String,
    pub port: u16,
}

/// One answer.
#[derive(Debug, Deserialize)]
pub struct CallAnswer {
    /// Where the name server sent it.
    pub address: String,
    pub status: u16,
    pub region: Option<String>,
    pub body: String,
}

/// What became of the calls of a load.
#[derive(Debug, Deserialize)]
pub struct LoadSummary {
    pub answered: u64,
    pub failed: u64,
    /// Some of those that failed.
    pub failures: Vec<serde_json::Value>,
}

pub struct Load(Started);

impl ClientPod {
    pub async fn start(client: &Client, kubectl: Kubectl, namespace: &str) -> anyhow::Result<Self> {
        let pod: Pod = install::read(json!({
            "metadata": {"name": NAME},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 65534,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": NAME,
                    "image": images::PYTHON,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", "import signal; signal.pause()"],
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        }))?;
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        pods.create(&PostParams::default(), &pod)
            .await
            .context("make the client's pod")?;
        let pod = format!("pod/{NAME}");
        kubectl.run(&["wait", &pod, "--for=condition=Ready", "--timeout=60s"])?;
        Ok(Self { kubectl })
    }

    /// What stands in the way of an installation, in words; nothing where all is well.
    pub fn problems(&self) -> anyhow::Result<Vec<String>> {
        read(&self.start_program(&["probe"])?.finish()?)
    }

    /// Calls a function once.
    pub fn call(&self, target: &Target, body: &str) -> anyhow::Result<CallAnswer> {
        read(&self.start_target("call", target, &[body])?.finish()?)
    }

    /// Has so many clients call a function all the time, each with a new connection a call.
    pub fn load(&self, target: &Target, body: &str, clients: usize) -> anyhow::Result<Load> {
        let load = self.start_target("load", target, &[body, &clients.to_string()])?;
        Ok(Load(load))
    }

    fn start_target(&self, what: &str, target: &Target, more: &[&str]) -> anyhow::Result<Started> {
        let port = target.port.to_string();
        let fixed = [what, &target.server, &port, &target.host, &target.path];
        self.start_program(&[&fixed, more].concat())
    }

    fn start_program(&self, arguments: &[&str]) -> anyhow::Result<Started> {
        let fixed = ["exec", "--stdin", NAME, "--", "python3", "-c", PROGRAM];
        self.kubectl.start(&[&fixed, arguments].concat())
    }
}

impl Load {
    /// Has every client finish its call.
    pub fn finish(self) -> anyhow::Result<LoadSummary> {
        read(&self.0.finish()?)
    }
}

fn read<T: DeserializeOwned>(printed: &str) -> anyhow::Result<T> {
    serde_json::from_str(printed).with_context(|| format!("understand {printed:?}"))
}
