//! The whole of a region inside a cluster, installed by its charts: global node, region, name server,
//! and a client that finds its way from a name to a function. Needs what the other tests do without:
//! pods that reach the API server, cluster DNS, node ports, and a default StorageClass.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::eventually;
use chaos_tests_kubernetes::client_pod::{ClientPod, Target};
use chaos_tests_kubernetes::cluster::is_ready;
use chaos_tests_kubernetes::kubectl::Kubectl;
use chaos_tests_kubernetes::region::images;
use chaos_tests_kubernetes::{
    Cluster, Ended, Functions, Needs, cluster_for, install, namespace, skip,
};
use deploy_check::Helm;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

const NAME: &str = "install";
const ZONE: &str = "fn.test";

/// Three programs pull nothing, start, elect and find each other on two busy cores.
const START_PATIENCE: Duration = Duration::from_secs(180);

/// A gateway's pause and grace as they are set below, its start, and the kubelet's rounds.
const REPLACE_PATIENCE: Duration = Duration::from_secs(120);

const CLIENTS: usize = 4;

/// The releases, in the order in which they are installed.
const RELEASES: [&str; 3] = ["global", "region", "dns"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "installs charts and needs more of a cluster than the rest: make test-kubernetes-install"]
async fn an_installed_region_is_called_by_name_and_its_gateway_upgraded_without_a_failed_call()
-> anyhow::Result<()> {
    let Some(cluster) = cluster_for(NAME, Needs::Nodes).await? else {
        return Ok(());
    };
    let namespace = namespace(NAME);
    let (Some(helm), Some(kubectl)) = (Helm::find()?, Kubectl::find(&namespace)) else {
        skip(
            NAME,
            "no helm or no kubectl; HELM and KUBECTL may name them",
        );
        return Ok(());
    };
    if !has_default_storage(&cluster).await? {
        skip(
            NAME,
            "the cluster has no default StorageClass, for the global node's volume",
        );
        return Ok(());
    }
    install::no_region(&cluster.client).await?;
    let mut installation = Installation {
        was_defined: install::are_defined(&cluster.client).await?,
        cluster,
        helm,
        kubectl,
        namespace,
        dir: tempfile::tempdir().context("make a folder for values")?,
        installed: Vec::new(),
    };
    let ended = Ended::of(installation.scenario()).await;
    if !ended.is_well() {
        println!("{}", installation.describe());
    }
    ended.after(installation.remove().await)
}

struct Installation {
    cluster: Cluster,
    helm: Helm,
    kubectl: Kubectl,
    namespace: String,
    dir: tempfile::TempDir,
    installed: Vec<&'static str>,
    /// Our resource definitions were there before.
    was_defined: bool,
}

/// The node that the gateway is pinned to, as a guide to node ports would have it.
struct Front {
    hostname: String,
    address: String,
    port: u16,
}

impl Installation {
    async fn scenario(&mut self) -> anyhow::Result<()> {
        install::namespace(&self.cluster.client, &self.namespace).await?;
        // As the guide has it: what the charts and the operator make is taken at that level.
        let restricted = "pod-security.kubernetes.io/enforce=restricted";
        self.kubectl
            .run(&["label", "namespace", &self.namespace, restricted])?;
        let client =
            ClientPod::start(&self.cluster.client, self.kubectl.clone(), &self.namespace).await?;
        let problems = client.problems()?;
        if !problems.is_empty() {
            skip(NAME, &problems.join("; "));
            return Ok(());
        }
        let front = self.front().await?;
        let before = Instant::now();
        for (release, values) in RELEASES.into_iter().zip(self.values(&front)) {
            self.release(release, &values)?;
        }
        let api = self
            .kubectl
            .forward("tradewind-global", 7400, self.dir.path())
            .await?;
        let functions = Functions::at(&api.url);
        eventually("the region is healthy", START_PATIENCE, async || {
            let regions = functions
                .ask(reqwest::Method::GET, "/v1/regions", None)
                .await?;
            ensure!(regions["items"][0]["verdict"] == "healthy", "{regions}");
            Ok(())
        })
        .await?;
        println!(
            "measured: installed and healthy after {:.2?}",
            before.elapsed()
        );

        let cart = functions
            .image("shop", "cart", images::FUNCTION_V1, json!({"memory": 64}))
            .await?;
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/python");
        let hello = functions.deploy("shop", "hello-python", &example).await?;
        let target = |name: &str| Target {
            server: format!("tradewind-dns.{}", self.namespace),
            host: format!("shop.{ZONE}"),
            path: format!("/{name}"),
            port: front.port,
        };
        for (function, word) in [(&cart, "v1"), (&hello, "Hello")] {
            let what = format!("{} answers by its name", function.name);
            let (answer, took) = eventually(&what, START_PATIENCE, async || {
                let answer = client.call(&target(&function.name), r#"{"name":"Ada"}"#)?;
                ensure!(
                    answer.status == 200 && answer.body.contains(word),
                    "{answer:?}"
                );
                Ok(answer)
            })
            .await?;
            ensure!(answer.address == front.address, "{answer:?}");
            ensure!(answer.region.as_deref() == Some("iad"), "{answer:?}");
            println!("measured: {what} after {took:.2?}: {}", answer.body.trim());
        }

        let old = self.gateways().await?;
        let load = client.load(&target("cart"), "{}", CLIENTS)?;
        let before = Instant::now();
        let [_, mut region, _] = self.values(&front);
        region["gateway"]["log"] = "debug".into();
        self.release("region", &region)?;
        eventually("the old gateway is gone", REPLACE_PATIENCE, async || {
            let now = self.gateways().await?;
            ensure!(
                !now.is_empty() && old.iter().all(|name| !now.contains(name)),
                "{now:?}"
            );
            Ok(())
        })
        .await?;
        let outcome = load.finish()?;
        println!(
            "measured: the gateway was replaced in {:.2?}: {} calls answered, {} failed",
            before.elapsed(),
            outcome.answered,
            outcome.failed
        );
        ensure!(outcome.failed == 0 && outcome.answered > 0, "{outcome:?}");
        Ok(())
    }

    /// Installs a chart or upgrades it, and waits until its pods are ready.
    fn release(&mut self, release: &'static str, values: &Value) -> anyhow::Result<()> {
        let file = self.dir.path().join(format!("{release}.json"));
        std::fs::write(&file, values.to_string()).context("write values")?;
        if !self.installed.contains(&release) {
            self.installed.push(release);
        }
        self.helm.run(&[
            "upgrade",
            "--install",
            release,
            &format!("charts/tradewind-{release}"),
            "--namespace",
            &self.namespace,
            "--values",
            &file.to_string_lossy(),
            "--wait",
            "--timeout",
            "180s",
        ])?;
        Ok(())
    }

    /// The values of [`RELEASES`], with requests that two cores can give.
    fn values(&self, front: &Front) -> [Value; 3] {
        let namespace = &self.namespace;
        let globals = [format!("http://tradewind-global.{namespace}:7400")];
        let small = json!({"requests": {"cpu": "50m", "memory": "64Mi"}});
        let global = json!({
            "node": {"name": "global-iad", "id": 1},
            "clusterId": namespace,
            "zone": ZONE,
            "members": [{
                "name": "global-iad",
                "id": 1,
                "api": globals[0],
                "raft": format!("tradewind-global.{namespace}:7401"),
            }],
            "gatewayPort": front.port,
            "service": {"type": "ClusterIP"},
            "volume": {"size": "1Gi"},
            "resources": small,
        });
        let region = json!({
            "region": {"name": "iad", "ipv4": front.address},
            "zone": ZONE,
            "globals": globals,
            "gateway": {
                "port": front.port,
                "service": {"type": "NodePort"},
                "nodeSelector": {"kubernetes.io/hostname": front.hostname},
                "drainPauseMs": 5000,
                "drainGraceMs": 10000,
                "memoryBudgetMb": 1024,
                "resources": small,
            },
            "operator": {"resources": small},
            "warmPools": [{
                "name": "python",
                "runtime": "python",
                "image": "runtime-python",
                "size": 1,
                "memoryMb": 256,
                "cpuMillis": 50,
            }],
        });
        let dns = json!({
            "zone": ZONE,
            "globals": globals,
            "nameservers": [{"name": format!("ns1.{ZONE}"), "ipv4": front.address}],
            "service": {"type": "NodePort", "nodePort": front.port + 1},
            "drainSecs": 5,
            "resources": small,
        });
        [global, region, dns]
    }

    /// A node that is ready, and two node ports in a row that nobody has.
    async fn front(&self) -> anyhow::Result<Front> {
        let nodes = Api::<Node>::all(self.cluster.client.clone());
        let nodes = nodes.list(&ListParams::default()).await?.items;
        let node = nodes.into_iter().find(is_ready);
        let node = node.context("some node is ready")?;
        let labels = node.metadata.labels.unwrap_or_default();
        let hostname = labels.get("kubernetes.io/hostname").cloned();
        let status = node.status.unwrap_or_default();
        let addresses = status.addresses.unwrap_or_default();
        let internal = addresses
            .into_iter()
            .find(|address| address.type_ == "InternalIP" && address.address.contains('.'));
        let services = Api::<Service>::all(self.cluster.client.clone());
        let services = services.list(&ListParams::default()).await?.items;
        let taken: Vec<i32> = services
            .into_iter()
            .filter_map(|service| service.spec)
            .flat_map(|spec| spec.ports.unwrap_or_default())
            .filter_map(|port| port.node_port)
            .collect();
        let free = (30_080..32_766_u16).step_by(2).find(|port| {
            [*port, port + 1]
                .iter()
                .all(|port| !taken.contains(&i32::from(*port)))
        });
        Ok(Front {
            hostname: hostname.context("a node has a host name")?,
            address: internal.context("a node has an IPv4 address")?.address,
            port: free.context("two node ports in a row are free")?,
        })
    }

    /// The names of gateways' pods, those that are going too.
    async fn gateways(&self) -> anyhow::Result<Vec<String>> {
        let pods = Api::<Pod>::namespaced(self.cluster.client.clone(), &self.namespace);
        let of_gateways = ListParams::default().labels("app.kubernetes.io/component=gateway");
        let pods = pods.list(&of_gateways).await?.items;
        Ok(pods
            .into_iter()
            .filter_map(|pod| pod.metadata.name)
            .collect())
    }

    /// What a person would look at first.
    fn describe(&self) -> String {
        let mut text = String::new();
        for arguments in [
            &["get", "pods,functions,warmpools", "--output", "wide"][..],
            &["get", "events"],
            &["logs", "statefulset/tradewind-global", "--tail=30"],
            &["logs", "statefulset/tradewind-operator", "--tail=30"],
            &["logs", "deployment/tradewind-gateway", "--tail=30"],
            &["logs", "deployment/tradewind-dns", "--tail=30"],
        ] {
            let said = self.kubectl.run(arguments);
            text += &format!(
                "--- kubectl {arguments:?}\n{}\n",
                said.unwrap_or_else(|e| format!("{e:#}"))
            );
        }
        text
    }

    /// Uninstalls what was installed and removes the namespace. What fails keeps nothing else from
    /// being removed: releases have objects outside the namespace.
    async fn remove(self) -> anyhow::Result<()> {
        let client = &self.cluster.client;
        let mut removed = Ok(());
        for release in self.installed.iter().rev() {
            let uninstalled = self.helm.run(&[
                "uninstall",
                release,
                "--wait",
                // Helm makes no release of values that it refuses.
                "--ignore-not-found",
                "--namespace",
                &self.namespace,
            ]);
            removed = removed.and(uninstalled.map(drop));
        }
        if !self.was_defined {
            removed = removed.and(install::adopt_definitions(client).await);
        }
        removed
            .and(install::remove_namespace(client, &self.namespace, true).await)
            .and(install::remove_definitions(client).await)
    }
}

async fn has_default_storage(cluster: &Cluster) -> anyhow::Result<bool> {
    let classes = Api::<StorageClass>::all(cluster.client.clone());
    let classes = classes.list(&ListParams::default()).await?.items;
    Ok(classes.iter().any(|class| {
        let annotations = class.metadata.annotations.iter().flatten();
        annotations.into_iter().any(|(key, value)| {
            key == "storageclass.kubernetes.io/is-default-class" && value == "true"
        })
    }))
}
