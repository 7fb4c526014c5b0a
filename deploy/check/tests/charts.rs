//! The charts, by what helm makes of them. Each test skips, and says so, where there is no helm.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use deploy_check::helm::{Helm, deploy};
use deploy_check::{documents, read};
use region_plane_resources::{RUNNER_PORT, labels};
use serde_json::{Value, json};

const REGIONS: [&str; 3] = ["iad", "fra", "nrt"];

/// Everything that is off by default, on.
const REGION_EVERYTHING: &[&str] = &[
    "--values=regions/iad.yaml",
    "--set=monitoring.serviceMonitors=true,monitoring.dashboard=true,monitoring.labels.release=x",
    "--set=headroom.replicas=2,prePull.images={example.com/a:1}",
    "--set=gateway.volume.persistent=true,gateway.volume.size=1.5Gi",
    "--set=gateway.service.type=NodePort,gateway.port=30080",
    "--set=gateway.volume.storageClass=fast",
    "--set=gateway.nodeSelector.a=b,operator.nodeSelector.a=b,functions.nodeSelector.a=b",
    "--set=images.pullSecrets={one},images.digests.tradewind-runner=sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "--set=functions.runtimeClassName=gvisor,operator.runner.memoryMb=512,operator.runner.memoryMaxMb=1024",
    r#"--set-json=functions.tolerations=[{"key":"functions","operator":"Exists","effect":"NoExecute","tolerationSeconds":60},{"key":"a","value":"b"}]"#,
    "--set=functions.egress.allowedRanges={10.1.0.0/16,fd00::/64}",
    "--set=queue.address=nats://queue:4222,queue.secret=queue",
    "--set-json=region.latitude=39.04,region.longitude=-77.48,region.labels={\"geo\":\"na\"}",
    "--set-json=gateway.tolerations=[{\"operator\":\"Exists\"}],prePull.tolerations=[{\"operator\":\"Exists\"}]",
];

const GLOBAL: &[&str] = &["--values=examples/global-iad.yaml"];
const GLOBAL_EVERYTHING: &[&str] = &[
    "--values=examples/global-iad.yaml",
    "--set=monitoring.serviceMonitor=true,priorityClassName=x,volume.storageClass=fast",
    "--set=service.loadBalancerClass=x,image.pullSecrets={one}",
];
const DNS: &[&str] = &["--values=examples/dns.yaml"];
const DNS_EVERYTHING: &[&str] = &[
    "--values=examples/dns.yaml",
    "--set=kind=DaemonSet,service.type=NodePort,monitoring.serviceMonitor=true",
    "--set=service.loadBalancerClass=x",
];
const DNS_SPLIT: &[&str] = &["--values=examples/dns.yaml", "--set=service.split=true"];

fn cases() -> Vec<(&'static str, Vec<&'static str>)> {
    vec![
        ("region", vec!["--values=regions/iad.yaml"]),
        ("region", vec!["--values=regions/fra.yaml"]),
        ("region", vec!["--values=regions/nrt.yaml"]),
        ("region", REGION_EVERYTHING.to_vec()),
        ("global", GLOBAL.to_vec()),
        ("global", GLOBAL_EVERYTHING.to_vec()),
        ("dns", DNS.to_vec()),
        ("dns", DNS_EVERYTHING.to_vec()),
        ("dns", DNS_SPLIT.to_vec()),
    ]
}

fn helm(test: &str) -> Option<Helm> {
    let helm = Helm::find().unwrap();
    if helm.is_none() {
        let why = "no helm; `scripts/install-helm ~/.cache/tradewind/tools` or HELM=PATH";
        chaos_tests_machine::skip(&format!("charts/{test}"), why);
    }
    helm
}

fn rendered(helm: &Helm, chart: &str, arguments: &[&str]) -> Vec<Value> {
    let text = helm.template(chart, arguments).unwrap();
    documents(&text).unwrap_or_else(|error| panic!("{chart} {arguments:?}: {error}\n{text}"))
}

fn is(object: &Value, kind: &str) -> bool {
    object["kind"] == kind
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| is(object, kind) && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn workloads(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects
        .iter()
        .filter(|object| !object["spec"]["template"].is_null())
}

/// Whether a selector of Kubernetes' newer kind, of labels and expressions, selects these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let asked = &selector["matchLabels"];
    let expressions = selector["matchExpressions"].as_array();
    assert!(asked.is_object() || expressions.is_some(), "{selector}");
    (asked.is_null() || matches(asked, labels))
        && expressions.into_iter().flatten().all(|expression| {
            let found = &labels[expression["key"].as_str().unwrap()];
            match expression["operator"].as_str().unwrap() {
                "Exists" => !found.is_null(),
                "In" => expression["values"].as_array().unwrap().contains(found),
                other => panic!("{other}"),
            }
        })
}

/// Whether every label that is asked for is there.
fn matches(asked: &Value, labels: &Value) -> bool {
    let asked = asked.as_object().unwrap();
    !asked.is_empty() && asked.iter().all(|(name, value)| labels[name] == *value)
}

#[test]
fn helm_finds_nothing_to_warn_of() {
    let Some(helm) = helm("helm_finds_nothing_to_warn_of") else {
        return;
    };
    for (chart, arguments) in cases() {
        helm.lint(chart, &arguments).unwrap();
    }
}

#[test]
fn what_is_rendered_is_what_kubernetes_knows() {
    let Some(helm) = helm("what_is_rendered_is_what_kubernetes_knows") else {
        return;
    };
    for (chart, arguments) in cases() {
        let objects = rendered(&helm, chart, &arguments);
        assert!(objects.len() >= 5, "{chart}: {}", objects.len());
        let mut names = BTreeSet::new();
        for object in &objects {
            if let Err(error) = read(object) {
                panic!("{chart} {arguments:?}: {error}");
            }
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            assert!(names.insert(name.clone()), "{name} twice");
        }
    }
}

#[test]
fn daemons_accept_what_the_charts_configure() {
    let Some(helm) = helm("daemons_accept_what_the_charts_configure") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for (chart, arguments) in cases() {
        let objects = rendered(&helm, chart, &arguments);
        for object in objects.iter().filter(|object| is(object, "ConfigMap")) {
            for (file, text) in object["data"].as_object().unwrap() {
                let Some(plane) = file.strip_suffix(".toml") else {
                    continue;
                };
                seen.insert(plane.to_owned());
                let path = dir.path().join(file);
                std::fs::write(&path, text.as_str().unwrap()).unwrap();
                let program =
                    chaos_tests_cluster::federation::binary(&format!("tradewind-{plane}"));
                let mut command = Command::new(program.unwrap());
                command
                    .arg("--config")
                    .arg(&path)
                    .arg("--insecure")
                    .env_clear();
                if plane == "dns" {
                    // What its pod gets by the downward API.
                    command
                        .env("TRADEWIND_NAME", "tradewind-dns-0")
                        .env("TRADEWIND_LISTEN", r#"["192.0.2.1:5300"]"#);
                }
                // The one thing that is wrong, so that it says what else is, and starts nothing. Of a
                // name server not the zone, against which it checks the others' names.
                let (variable, bad, word) = match plane {
                    "dns" => ("TRADEWIND_TTL_SECS", "0", "ttl_secs"),
                    _ => ("TRADEWIND_ZONE", "", "zone"),
                };
                let output = command.env(variable, bad).output().unwrap();
                let said = String::from_utf8(output.stderr).unwrap();
                let problems: Vec<&str> = said
                    .lines()
                    .filter(|line| line.starts_with("  - "))
                    .collect();
                assert_eq!(output.status.code(), Some(78), "{plane}: {said}");
                assert!(
                    problems.len() == 1 && problems[0].contains(word),
                    "{chart} {arguments:?}: {said}"
                );
            }
        }
    }
    let all = ["dns", "global", "operator", "region"].map(str::to_owned);
    assert_eq!(seen, all.into());
}

#[test]
fn everything_that_selects_selects_something() {
    let Some(helm) = helm("everything_that_selects_selects_something") else {
        return;
    };
    for (chart, arguments) in cases() {
        let objects = rendered(&helm, chart, &arguments);
        let pods: Vec<&Value> = workloads(&objects)
            .map(|workload| &workload["spec"]["template"])
            .collect();
        let selected = |asked: &Value| {
            pods.iter()
                .filter(|pod| matches(asked, &pod["metadata"]["labels"]))
                .count()
        };
        for object in &objects {
            let spec = &object["spec"];
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            match object["kind"].as_str().unwrap() {
                "Deployment" | "StatefulSet" | "DaemonSet" => {
                    let asked = &spec["selector"]["matchLabels"];
                    assert!(
                        matches(asked, &spec["template"]["metadata"]["labels"]),
                        "{name} does not select its own"
                    );
                    assert_eq!(selected(asked), 1, "{name} selects another's pods");
                }
                "PodDisruptionBudget" => {
                    assert_eq!(selected(&spec["selector"]["matchLabels"]), 1, "{name}");
                }
                "Service" => {
                    let pod = pods
                        .iter()
                        .find(|pod| matches(&spec["selector"], &pod["metadata"]["labels"]))
                        .unwrap_or_else(|| panic!("{name} selects nothing"));
                    let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
                    for port in spec["ports"].as_array().unwrap() {
                        let target = ports.iter().find(|open| open["name"] == port["targetPort"]);
                        let target = target.unwrap_or_else(|| panic!("{name}: {port}"));
                        assert_eq!(target["protocol"], port["protocol"], "{name}: {port}");
                    }
                }
                "ServiceMonitor" => {
                    let found: Vec<&Value> = objects
                        .iter()
                        .filter(|object| is(object, "Service"))
                        .filter(|service| {
                            let asked = &spec["selector"]["matchLabels"];
                            matches(asked, &service["metadata"]["labels"])
                        })
                        .collect();
                    assert_eq!(found.len(), 1, "{name}");
                    let ports = found[0]["spec"]["ports"].as_array().unwrap();
                    let asked = &spec["endpoints"][0]["port"];
                    assert!(ports.iter().any(|port| port["name"] == *asked), "{name}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn policies_select_pods_and_ports_that_are_there() {
    let Some(helm) = helm("policies_select_pods_and_ports_that_are_there") else {
        return;
    };
    let template = |workload: &Value| workload["spec"]["template"].clone();
    // Those that the operator makes; they open no port by name.
    let of_functions = json!({"metadata": {"labels": {
        labels::MANAGED_BY: labels::MANAGED_BY_VALUE,
        labels::KIND: "image",
    }}});
    let everywhere: Vec<Value> = cases()
        .iter()
        .flat_map(|(chart, arguments)| rendered(&helm, chart, arguments))
        .filter(|object| !object["spec"]["template"].is_null())
        .map(|workload| template(&workload))
        .collect();
    let mut seen = BTreeSet::new();
    for (chart, arguments) in cases() {
        let objects = rendered(&helm, chart, &arguments);
        let mut pods: Vec<Value> = workloads(&objects).map(template).collect();
        pods.push(of_functions.clone());
        for policy in objects.iter().filter(|object| is(object, "NetworkPolicy")) {
            let name = policy["metadata"]["name"].as_str().unwrap();
            seen.insert(name.to_owned());
            let spec = &policy["spec"];
            let labels = |pod: &Value| pod["metadata"]["labels"].clone();
            let selected: Vec<&Value> = pods
                .iter()
                .filter(|pod| selects(&spec["podSelector"], &labels(pod)))
                .collect();
            assert!(!selected.is_empty(), "{name} protects nothing");
            for rule in spec["ingress"].as_array().into_iter().flatten() {
                for port in rule["ports"].as_array().unwrap() {
                    let Some(asked) = port["port"].as_str() else {
                        continue;
                    };
                    for pod in &selected {
                        let open = pod["spec"]["containers"][0]["ports"].as_array();
                        let found = open.into_iter().flatten().any(|open| {
                            let protocol = open["protocol"].as_str().unwrap_or("TCP");
                            open["name"] == asked && port["protocol"] == protocol
                        });
                        assert!(found, "{name}: no port {asked} in {pod}");
                    }
                }
                for peer in rule["from"].as_array().into_iter().flatten() {
                    let pods = match (&peer["podSelector"], &peer["namespaceSelector"]) {
                        (Value::Null, _) => continue,
                        (_, Value::Null) => &pods,
                        // Another chart's.
                        _ => &everywhere,
                    };
                    assert!(
                        pods.iter()
                            .any(|pod| selects(&peer["podSelector"], &labels(pod))),
                        "{name} lets nobody in by {peer}"
                    );
                }
            }
        }
    }
    let all = [
        "dns",
        "functions",
        "gateway",
        "global",
        "operator",
        "waiting",
    ];
    assert_eq!(seen, all.map(|name| format!("tradewind-{name}")).into());
}

#[test]
fn rights_go_to_accounts_that_pods_have() {
    let Some(helm) = helm("rights_go_to_accounts_that_pods_have") else {
        return;
    };
    let objects = rendered(&helm, "region", REGION_EVERYTHING);
    let used: BTreeSet<&str> = workloads(&objects)
        .filter_map(|workload| workload["spec"]["template"]["spec"]["serviceAccountName"].as_str())
        .collect();
    let subjects = |account: &Value| {
        let name = account["name"].as_str().unwrap();
        assert!(used.contains(name), "no pod is {name}");
        assert_eq!(account["namespace"], "tradewind", "{name}");
        named(&objects, "ServiceAccount", name);
    };
    let mut bound = 0;
    for object in &objects {
        match object["kind"].as_str().unwrap() {
            "RoleBinding" | "ClusterRoleBinding" => {
                let role = &object["roleRef"];
                let kind = role["kind"].as_str().unwrap();
                named(&objects, kind, role["name"].as_str().unwrap());
                object["subjects"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .for_each(subjects);
            }
            "FlowSchema" => {
                let spec = &object["spec"];
                let level = spec["priorityLevelConfiguration"]["name"].as_str().unwrap();
                named(&objects, "PriorityLevelConfiguration", level);
                for rule in spec["rules"].as_array().unwrap() {
                    for subject in rule["subjects"].as_array().unwrap() {
                        subjects(&subject["serviceAccount"]);
                    }
                }
            }
            _ => continue,
        }
        bound += 1;
    }
    assert_eq!(bound, 5);
}

#[test]
fn a_pod_is_replaced_for_what_it_reads_and_nothing_else() {
    let Some(helm) = helm("a_pod_is_replaced_for_what_it_reads_and_nothing_else") else {
        return;
    };
    let region: &[&str] = &["--values=regions/iad.yaml"];
    let kept = [&["--set=gateway.volume.persistent=true"], region].concat();
    let digest = "--set=images.digests.runtime-python=sha256:0000000000000000000000000000000000000000000000000000000000000000";
    for (chart, base, set, name, replaced) in [
        (
            "region",
            region,
            "--set=gateway.service.annotations.a=b",
            "gateway",
            false,
        ),
        (
            "region",
            region,
            "--set=gateway.service.sourceRanges={10.0.0.0/8}",
            "gateway",
            false,
        ),
        (
            "region",
            region,
            "--set=gateway.admin.allowedRanges={10.0.0.0/8}",
            "gateway",
            false,
        ),
        (
            "region",
            &kept,
            "--set=gateway.volume.size=20Gi",
            "gateway",
            false,
        ),
        (
            "region",
            region,
            "--set=gateway.callsMax=8",
            "gateway",
            true,
        ),
        (
            "region",
            region,
            "--set=operator.replicas=3",
            "gateway",
            true,
        ),
        (
            "region",
            region,
            "--set=functions.egress.allowedRanges={10.1.0.0/16}",
            "operator",
            false,
        ),
        ("region", region, digest, "operator", false),
        (
            "region",
            region,
            "--set=operator.writesPerSec=8",
            "operator",
            true,
        ),
        (
            "global",
            GLOBAL,
            "--set=service.allowedRanges={10.1.0.0/16}",
            "global",
            false,
        ),
        ("global", GLOBAL, "--set=volume.size=40Gi", "global", false),
        (
            "global",
            GLOBAL,
            "--set=disruptionsAllowed=1",
            "global",
            false,
        ),
        (
            "global",
            GLOBAL,
            "--set=limits.watchRevisionsMax=8",
            "global",
            true,
        ),
        ("dns", DNS, "--set=service.annotations.a=b", "dns", false),
        ("dns", DNS, "--set=ttlSecs=8", "dns", true),
    ] {
        let pod = |arguments: &[&str]| {
            let objects = rendered(&helm, chart, arguments);
            let name = format!("tradewind-{name}");
            let mut found =
                workloads(&objects).filter(|object| object["metadata"]["name"] == *name);
            found.next().unwrap()["spec"]["template"].clone()
        };
        let changed = pod(base) != pod(&[base, &[set]].concat());
        assert_eq!(changed, replaced, "{chart} {set}: {name}");
    }
}

#[test]
fn what_never_was_ready_can_be_mended() {
    let Some(helm) = helm("what_never_was_ready_can_be_mended") else {
        return;
    };
    let mut found = 0;
    for (chart, arguments) in cases() {
        for set in rendered(&helm, chart, &arguments) {
            if is(&set, "StatefulSet") {
                // In order, the controller waits for the old pod to be ready before it makes the new.
                assert_eq!(set["spec"]["podManagementPolicy"], "Parallel", "{chart}");
                found += 1;
            }
        }
    }
    assert!(found > 0);
}

#[test]
fn only_a_gateway_and_a_vote_hold_their_nodes() {
    let Some(helm) = helm("only_a_gateway_and_a_vote_hold_their_nodes") else {
        return;
    };
    let objects = [
        ("region", REGION_EVERYTHING),
        ("global", GLOBAL),
        ("dns", DNS),
    ]
    .map(|(chart, arguments)| rendered(&helm, chart, arguments))
    .concat();
    // An autoscaler does not ask about the pods of a DaemonSet.
    let holding: Vec<&str> = workloads(&objects)
        .filter(|workload| !is(workload, "DaemonSet"))
        .filter(|workload| {
            let annotations = &workload["spec"]["template"]["metadata"]["annotations"];
            annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] != "true"
        })
        .map(|workload| workload["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(holding, ["tradewind-gateway", "tradewind-global"]);
}

#[test]
fn our_pods_are_confined() {
    let Some(helm) = helm("our_pods_are_confined") else {
        return;
    };
    for (chart, arguments) in cases() {
        let objects = rendered(&helm, chart, &arguments);
        for workload in workloads(&objects) {
            let name = &workload["metadata"]["name"];
            let pod = &workload["spec"]["template"]["spec"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
                "{name}"
            );
            assert_eq!(pod["enableServiceLinks"], false, "{name}");
            let asks_the_api = ["tradewind-gateway", "tradewind-operator"]
                .iter()
                .any(|account| pod["serviceAccountName"] == *account);
            assert!(
                asks_the_api || pod["automountServiceAccountToken"] == false,
                "{name} has a token and no use for it"
            );
            let containers = ["initContainers", "containers"]
                .iter()
                .flat_map(|list| pod[list].as_array().into_iter().flatten());
            for container in containers {
                let name = format!("{name} {}", container["name"]);
                let context = &container["securityContext"];
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{name}");
                assert!(
                    !container["resources"]["limits"]["memory"].is_null(),
                    "{name}"
                );
                assert!(
                    !container["resources"]["requests"]["cpu"].is_null(),
                    "{name}"
                );
                // A node that is short of disk evicts first what uses more than it asked for.
                let on_disk = |volume: &Value| {
                    let size = volume["emptyDir"]["sizeLimit"].as_str();
                    size.is_some_and(|size| size.ends_with("Gi"))
                };
                let volumes = pod["volumes"].as_array().into_iter().flatten();
                assert!(
                    !volumes.into_iter().any(on_disk)
                        || !container["resources"]["requests"]["ephemeral-storage"].is_null(),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn a_gateway_is_killed_only_after_it_had_its_drain() {
    let Some(helm) = helm("a_gateway_is_killed_only_after_it_had_its_drain") else {
        return;
    };
    // The daemon cuts itself off five seconds after pause and calls.
    for (pause_ms, grace_ms, least_secs) in [
        (20_000, 30_000, 56),
        (0, 0, 6),
        (1, 1, 6),
        (1_500, 15_000, 22),
        (600_000, 600_000, 1_206),
    ] {
        let set = format!("--set=gateway.drainPauseMs={pause_ms},gateway.drainGraceMs={grace_ms}");
        let objects = rendered(&helm, "region", &["--values=regions/iad.yaml", &set]);
        let gateway = named(&objects, "Deployment", "tradewind-gateway");
        let given = &gateway["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
        let given = given.as_i64().unwrap();
        assert!(
            (least_secs..least_secs + 10).contains(&given),
            "{set}: {given}"
        );
    }
}

#[test]
fn function_pods_are_reached_by_the_gateway_alone() {
    let Some(helm) = helm("function_pods_are_reached_by_the_gateway_alone") else {
        return;
    };
    let objects = rendered(&helm, "region", &["--values=regions/iad.yaml"]);
    let policy = &named(&objects, "NetworkPolicy", "tradewind-functions")["spec"];
    assert_eq!(
        policy["podSelector"],
        json!({
            "matchLabels": {labels::MANAGED_BY: labels::MANAGED_BY_VALUE},
            "matchExpressions": [{"key": labels::KIND, "operator": "Exists"}],
        })
    );
    let [rule] = policy["ingress"].as_array().unwrap().as_slice() else {
        panic!("{policy}");
    };
    assert_eq!(
        rule["ports"],
        json!([{"protocol": "TCP", "port": RUNNER_PORT}])
    );
    let gateway = named(&objects, "Deployment", "tradewind-gateway");
    assert_eq!(
        rule["from"],
        json!([{"podSelector": gateway["spec"]["selector"]}])
    );
    // The global plane is on private addresses and obeys whoever reaches it.
    let outside = &policy["egress"][0]["to"];
    for range in [
        "10.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
    ] {
        let blocked = outside[0]["ipBlock"]["except"].as_array().unwrap();
        assert!(blocked.contains(&json!(range)), "{range}");
    }
    assert!(
        outside[1]["ipBlock"]["except"]
            .as_array()
            .unwrap()
            .contains(&json!("fc00::/7"))
    );
    for workload in workloads(&objects) {
        assert_ne!(
            workload["spec"]["template"]["metadata"]["labels"][labels::MANAGED_BY],
            labels::MANAGED_BY_VALUE,
            "the operator would take {} for a function's pod",
            workload["metadata"]["name"]
        );
    }
}

#[test]
fn what_is_private_has_no_way_around_its_ranges() {
    let Some(helm) = helm("what_is_private_has_no_way_around_its_ranges") else {
        return;
    };
    for (chart, arguments, name) in [
        (
            "region",
            &["--values=regions/iad.yaml"][..],
            "tradewind-gateway-admin",
        ),
        ("global", GLOBAL, "tradewind-global"),
    ] {
        let objects = rendered(&helm, chart, arguments);
        let spec = &named(&objects, "Service", name)["spec"];
        assert_eq!(spec["type"], "LoadBalancer", "{name}");
        // A node port would be open to whoever reaches a node.
        assert_eq!(spec["allocateLoadBalancerNodePorts"], false, "{name}");
        // And the node's own address is in the ranges.
        assert_eq!(spec["externalTrafficPolicy"], "Local", "{name}");
        assert!(
            !spec["loadBalancerSourceRanges"]
                .as_array()
                .unwrap()
                .is_empty()
        );
    }
    // With a NodePort there is no load balancer to ask.
    let objects = rendered(
        &helm,
        "region",
        &[
            "--values=regions/iad.yaml",
            "--set=gateway.service.type=NodePort,gateway.port=30080",
            "--set=gateway.service.sourceRanges={198.51.100.0/24}",
        ],
    );
    let policy = &named(&objects, "NetworkPolicy", "tradewind-gateway")["spec"];
    assert_eq!(
        policy["ingress"][0]["from"],
        json!([{"ipBlock": {"cidr": "198.51.100.0/24"}}])
    );
}

#[test]
fn room_is_kept_where_functions_run() {
    let Some(helm) = helm("room_is_kept_where_functions_run") else {
        return;
    };
    let objects = rendered(&helm, "region", REGION_EVERYTHING);
    for (kind, name, tolerations) in [
        ("DaemonSet", "tradewind-pre-pull", 3),
        ("Deployment", "tradewind-headroom", 2),
    ] {
        let pod = &named(&objects, kind, name)["spec"]["template"]["spec"];
        assert_eq!(pod["runtimeClassName"], "gvisor", "{name}");
        assert_eq!(pod["nodeSelector"], json!({"a": "b"}), "{name}");
        let found = pod["tolerations"].as_array().unwrap();
        assert_eq!(found.len(), tolerations, "{name}: {found:?}");
        assert_eq!(found[1], json!({"key": "a", "value": "b"}), "{name}");
    }
}

#[test]
fn nodes_can_be_drained_and_a_vote_is_kept() {
    let Some(helm) = helm("nodes_can_be_drained_and_a_vote_is_kept") else {
        return;
    };
    let region: &[&str] = &["--values=regions/iad.yaml"];
    for (chart, arguments, name, unready) in [
        ("region", region, "tradewind-gateway", json!("AlwaysAllow")),
        ("region", region, "tradewind-operator", json!("AlwaysAllow")),
        ("dns", DNS, "tradewind-dns", json!("AlwaysAllow")),
        ("global", GLOBAL, "tradewind-global", Value::Null),
    ] {
        let objects = rendered(&helm, chart, arguments);
        let budget = &named(&objects, "PodDisruptionBudget", name)["spec"];
        assert_eq!(budget["unhealthyPodEvictionPolicy"], unready, "{name}");
    }
}

#[test]
fn a_gateways_image_is_there_before_a_gateway() {
    let Some(helm) = helm("a_gateways_image_is_there_before_a_gateway") else {
        return;
    };
    for (set, shared) in [
        ("--set=functions.nodeSelector=null", true),
        ("--set=gateway.nodeSelector.pool=a", true),
        (
            "--set=functions.nodeSelector.pool=a,gateway.nodeSelector.pool=a",
            true,
        ),
        // It would be pulled where no gateway goes, and nowhere else.
        (
            "--set=functions.nodeSelector.pool=a,gateway.nodeSelector.pool=b",
            false,
        ),
        ("--set=functions.nodeSelector.pool=a", false),
    ] {
        let objects = rendered(&helm, "region", &["--values=regions/iad.yaml", set]);
        let pod = |kind, name| &named(&objects, kind, name)["spec"]["template"]["spec"];
        let gateway = &pod("Deployment", "tradewind-gateway")["containers"][0]["image"];
        let pulled = &pod("DaemonSet", "tradewind-pre-pull")["initContainers"][1]["image"];
        assert_eq!(gateway == pulled, shared, "{set}");
    }
}

#[test]
fn a_global_node_hears_its_namespace_and_those_that_are_named() {
    let Some(helm) = helm("a_global_node_hears_its_namespace_and_those_that_are_named") else {
        return;
    };
    let more = [GLOBAL, &["--set=networkPolicies.namespaces={regions}"]].concat();
    for (arguments, want) in [
        (GLOBAL.to_vec(), json!(["tradewind"])),
        (more, json!(["tradewind", "regions"])),
    ] {
        let objects = rendered(&helm, "global", &arguments);
        let rules = &named(&objects, "NetworkPolicy", "tradewind-global")["spec"]["ingress"];
        let selector = &rules[2]["from"][0]["namespaceSelector"];
        assert_eq!(selector["matchExpressions"][0]["values"], want);
        for rule in rules.as_array().unwrap() {
            let from = &rule["from"][0];
            let raft = rule["ports"]
                .as_array()
                .unwrap()
                .iter()
                .any(|port| port["port"] == "raft");
            assert_eq!(raft, !from["ipBlock"].is_null(), "members alone: {rule}");
        }
    }
}

#[test]
fn who_scrapes_is_let_through() {
    let Some(helm) = helm("who_scrapes_is_let_through") else {
        return;
    };
    for (chart, arguments, name) in [
        (
            "region",
            &["--values=regions/iad.yaml"][..],
            "tradewind-gateway",
        ),
        (
            "region",
            &["--values=regions/iad.yaml"],
            "tradewind-operator",
        ),
        ("global", GLOBAL, "tradewind-global"),
        ("dns", DNS, "tradewind-dns"),
    ] {
        let set = ["--set=monitoring.namespace=watchers"];
        let objects = rendered(&helm, chart, &[arguments, &set].concat());
        let policy = &named(&objects, "NetworkPolicy", name)["spec"];
        let scrapes = policy["ingress"].as_array().unwrap().iter().any(|rule| {
            let from = rule["from"].as_array().into_iter().flatten();
            from.into_iter().any(|peer| {
                peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                    == "watchers"
            })
        });
        assert!(scrapes, "{name}: {policy}");
    }
}

/// Of every source file below `folder`.
fn source(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_dashboard_shows_metrics_that_are_there() {
    let mut text = String::new();
    source(&deploy().join("../region-plane"), &mut text);
    let path = deploy().join("charts/tradewind-region/dashboards/region.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for panel in panels {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let words = target["expr"]
                .as_str()
                .unwrap()
                .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let metrics: Vec<&str> = words
                .filter(|word| {
                    word.starts_with("tradewind_region_") || word.starts_with("tradewind_operator_")
                })
                .collect();
            assert!(!metrics.is_empty(), "{title}: {target}");
            for metric in metrics {
                let of_histogram = ["_bucket", "_count", "_sum"]
                    .iter()
                    .find_map(|end| metric.strip_suffix(end))
                    .unwrap_or(metric);
                assert!(
                    text.contains(&format!("\"{of_histogram}\"")),
                    "{title}: {metric}"
                );
                shown.insert(of_histogram.to_owned());
            }
        }
    }
    for asked_at_night in [
        "tradewind_operator_leading",
        "tradewind_operator_problems",
        "tradewind_operator_deletions_held",
        "tradewind_operator_pools_empty",
        "tradewind_region_starts_waiting",
    ] {
        assert!(shown.contains(asked_at_night), "{asked_at_night}");
    }
}

#[test]
fn functions_displace_headroom_and_nobody_else() {
    let Some(helm) = helm("functions_displace_headroom_and_nobody_else") else {
        return;
    };
    let objects = [
        ("region", REGION_EVERYTHING.to_vec()),
        ("global", GLOBAL.to_vec()),
        ("dns", DNS.to_vec()),
    ]
    .map(|(chart, arguments)| rendered(&helm, chart, &arguments))
    .concat();
    let value = |class: &Value| {
        let class = named(&objects, "PriorityClass", class.as_str().unwrap());
        class["value"].as_i64().unwrap()
    };
    let priority = |kind, name| {
        let pod = &named(&objects, kind, name)["spec"]["template"]["spec"];
        value(&pod["priorityClassName"])
    };
    // A pod that says nothing has 0.
    assert_eq!(priority("DaemonSet", "tradewind-pre-pull"), 0);
    assert!(priority("Deployment", "tradewind-headroom") < 0);
    for (kind, name) in [
        ("Deployment", "tradewind-gateway"),
        ("StatefulSet", "tradewind-operator"),
        ("StatefulSet", "tradewind-global"),
        ("Deployment", "tradewind-dns"),
    ] {
        assert!(priority(kind, name) > 0, "{name}");
    }
    let config = named(&objects, "ConfigMap", "tradewind-operator")["data"]["operator.toml"]
        .as_str()
        .unwrap();
    let class = config
        .lines()
        .find_map(|line| line.strip_prefix("priority_class = "))
        .unwrap();
    assert_eq!(value(&class.trim_matches('"').into()), 0);
}

#[test]
fn nobody_may_do_more_than_it_does() {
    let Some(helm) = helm("nobody_may_do_more_than_it_does") else {
        return;
    };
    let objects = rendered(&helm, "region", REGION_EVERYTHING);
    let rules = |kind, name| -> Vec<String> {
        let list = |value: &Value| {
            let words: Vec<_> = value.as_array().into_iter().flatten().collect();
            let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
            words.join(",")
        };
        named(&objects, kind, name)["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| {
                let only = list(&rule["resourceNames"]);
                let only = if only.is_empty() {
                    only
                } else {
                    format!(" {only}")
                };
                format!(
                    "{}{only}: {}",
                    list(&rule["resources"]),
                    list(&rule["verbs"])
                )
            })
            .collect()
    };
    assert_eq!(rules("Role", "tradewind-gateway"), ["pods: list,watch"]);
    assert_eq!(
        rules("Role", "tradewind-operator"),
        [
            "pods: list,watch,create,patch,delete",
            "pods/resize: patch",
            "functions: list,watch,create,patch,delete",
            "warmpools: list,watch",
            "functions/status,warmpools/status: patch",
            "secrets: list,watch,create,patch,delete",
            "events: create,patch",
            "leases: create",
            "leases tradewind-operator: get,update",
        ]
    );
    assert_eq!(
        rules("ClusterRole", "tradewind-tradewind-iad-operator"),
        [
            "nodes: list,watch",
            "customresourcedefinitions functions.tradewind.dev,warmpools.tradewind.dev: get",
        ]
    );
    for (chart, arguments) in [("global", GLOBAL_EVERYTHING), ("dns", DNS_EVERYTHING)] {
        for object in rendered(&helm, chart, arguments) {
            assert!(
                !object["kind"].as_str().unwrap().contains("Role"),
                "{object}"
            );
        }
    }
}

#[test]
fn regions_differ_only_in_what_differs() {
    let may_differ = [
        "/region/name",
        "/region/ipv4",
        "/gateway/admin/address",
        "/gateway/admin/service/annotations/service.beta.kubernetes.io~1aws-load-balancer-private-ipv4-addresses",
    ];
    let mut alike = Vec::new();
    let mut differing = Vec::new();
    for region in REGIONS {
        let path = deploy().join(format!("regions/{region}.yaml"));
        let mut values: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(
            values["region"]["name"], region,
            "a file is named for its region"
        );
        let taken: Vec<Value> = may_differ
            .iter()
            .filter_map(|pointer| Some(values.pointer_mut(pointer)?.take()))
            .collect();
        differing.push(taken);
        alike.push(values);
    }
    assert_eq!(alike[0], alike[1]);
    assert_eq!(alike[0], alike[2]);
    let all: BTreeSet<String> = differing.iter().flatten().map(Value::to_string).collect();
    assert_eq!(
        all.len(),
        differing.iter().map(Vec::len).sum::<usize>(),
        "two regions share a name or an address: {differing:?}"
    );
}

#[test]
fn regions_have_no_object_of_the_cluster_in_common() {
    let Some(helm) = helm("regions_have_no_object_of_the_cluster_in_common") else {
        return;
    };
    let mut names = BTreeSet::new();
    let installed = REGIONS
        .map(|region| (region, "tradewind"))
        .into_iter()
        .chain([("iad", "staging")]);
    for (region, namespace) in installed {
        let values = format!("--values=regions/{region}.yaml");
        let namespace = format!("--namespace={namespace}");
        for object in rendered(&helm, "region", &[&values, &namespace]) {
            if object["metadata"]["namespace"].is_null() {
                let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
                assert!(names.insert(name.clone()), "{name}");
            }
        }
    }
    assert!(names.len() >= 3 * REGIONS.len(), "{names:?}");
}

#[test]
fn values_that_cannot_work_are_refused() {
    let Some(helm) = helm("values_that_cannot_work_are_refused") else {
        return;
    };
    let region: &[&str] = &["--values=regions/iad.yaml"];
    for (chart, base, bad, want) in [
        // Nothing was said.
        (
            "region",
            &[][..],
            "--set=region.name=iad",
            "'/globals': minItems",
        ),
        ("region", &[], "--set=region.name=iad", "'/zone'"),
        ("region", &[], "--set=region.name=iad", "'/region/ipv4'"),
        // Mistyped.
        (
            "region",
            region,
            "--set=gatway.port=80",
            "'gatway' not allowed",
        ),
        (
            "region",
            region,
            "--set=gateway.prot=80",
            "'prot' not allowed",
        ),
        ("region", region, "--set=gateway.port=http", "want integer"),
        ("region", region, "--set=region.name=IAD", "'/region/name'"),
        (
            "region",
            region,
            "--set=region.ipv4=iad.example.com",
            "'/region/ipv4'",
        ),
        (
            "region",
            region,
            "--set=globals={https://a:1}",
            "'/globals/0'",
        ),
        (
            "region",
            region,
            "--set=images.digests.tradewind-region=abc",
            "does not match pattern",
        ),
        (
            "region",
            region,
            "--set=images.digests.tradewind-reigon=abc",
            "not allowed",
        ),
        (
            "region",
            region,
            "--set=region.ipv4=999.999.1.1",
            "'/region/ipv4'",
        ),
        (
            "region",
            region,
            "--set=region.ipv6=2001:db8::1",
            "not in the charts yet",
        ),
        (
            "dns",
            DNS,
            "--set=nameservers[0].ipv6=2001:db8::1",
            "not in the charts yet",
        ),
        (
            "dns",
            DNS,
            "--set=nameservers[0].ipv4=300.1.1.1",
            "'/nameservers/0/ipv4'",
        ),
        (
            "region",
            region,
            r#"--set-json=functions.tolerations=[{"key":"a","efect":"NoSchedule"}]"#,
            "'efect' not allowed",
        ),
        (
            "region",
            region,
            "--set=gateway.admin.address=10.1.2.3:99999",
            "'/gateway/admin/address'",
        ),
        (
            "region",
            region,
            "--set=globals={http://a:65536}",
            "'/globals/0'",
        ),
        (
            "region",
            region,
            "--set=gateway.service.sourceRanges={10.0.0.0/99}",
            "'/gateway/service/sourceRanges/0'",
        ),
        (
            "region",
            region,
            "--set=functions.egress.blockedRanges={10.0.0.256/8}",
            "'/functions/egress/blockedRanges/0'",
        ),
        (
            "region",
            region,
            "--set-json=region.latitude=1",
            "latitude and longitude go together",
        ),
        (
            "region",
            region,
            r#"--set-json=warmPools=[{"name":"a","runtime":"node","image":"runtime-node","size":1,"memoryMb":64},{"name":"a","runtime":"python","image":"runtime-python","size":1,"memoryMb":64}]"#,
            r#"two have the name "a""#,
        ),
        (
            "region",
            region,
            "--set=warmPools[0].name=a,warmPools[0].runtime=python,warmPools[0].size=1,warmPools[0].memoryMb=64,warmPools[0].image=runtime-pyton",
            "'/warmPools/0/image'",
        ),
        // Out of range.
        (
            "region",
            region,
            "--set=gateway.service.type=NodePort",
            "'/gateway/port': minimum",
        ),
        (
            "region",
            region,
            "--set=gateway.service.type=ClusterIP",
            "'/gateway/service/type'",
        ),
        (
            "region",
            region,
            "--set=gateway.callsMax=0",
            "'/gateway/callsMax': minimum",
        ),
        (
            "region",
            region,
            "--set=gateway.drainPauseMs=700000",
            "'/gateway/drainPauseMs': maximum",
        ),
        (
            "region",
            region,
            "--set=operator.replicas=0",
            "'/operator/replicas': minimum",
        ),
        (
            "region",
            region,
            "--set=priorityClasses.headroom=5",
            "'/priorityClasses/headroom': maximum",
        ),
        (
            "region",
            region,
            "--set=priorityClasses.functions=100000000",
            "system must be greater",
        ),
        (
            "region",
            region,
            "--set=priorityClasses.functions=-5",
            "functions greater than headroom",
        ),
        (
            "region",
            region,
            "--set-json=region.latitude=91",
            "'/region/latitude': maximum",
        ),
        (
            "region",
            region,
            r#"--set-json=warmPools=[{"name":"a","runtime":"node","image":"x","size":1,"memoryMb":1}]"#,
            "'/warmPools/0/memoryMb': minimum",
        ),
        (
            "region",
            region,
            r#"--set-json=warmPools=[{"name":"A b","runtime":"node","image":"x","size":1,"memoryMb":64}]"#,
            "'/warmPools/0/name'",
        ),
        (
            "region",
            region,
            "--set=operator.runner.memoryMb=129",
            "memoryMaxMb must not be less",
        ),
        (
            "region",
            region,
            "--set=gateway.responseBodyBytesMax=67108864,gateway.requestBodyBytesMax=67108864",
            "memoryMaxMb must be 148 at least",
        ),
        // A runner has a second less than its pod.
        (
            "region",
            region,
            "--set=operator.terminationGraceSeconds=1",
            "'/operator/terminationGraceSeconds': minimum",
        ),
        // What only the API server or the program would refuse, with half of it installed.
        (
            "dns",
            DNS,
            "--set=service.type=NodePort,service.split=true",
            "service.split is for load balancers",
        ),
        (
            "dns",
            DNS,
            "--set=nameservers[0].name=dns.fn.example.com",
            "is no ns*.fn.example.com",
        ),
        (
            "dns",
            DNS,
            "--set=nameservers[0].name=ns1.a.fn.example.com",
            "is no ns*.fn.example.com",
        ),
        (
            "dns",
            DNS,
            r#"--set-json=nameservers=[{"name":"ns1.fn.example.com"}]"#,
            "has no ipv4",
        ),
        (
            "global",
            GLOBAL,
            r#"--set-json=members=[{"name":"global-iad","id":1,"api":"http://a:1","raft":"a:2"},{"name":"b","id":1,"api":"http://b:1","raft":"b:2"}]"#,
            "two have the id 1",
        ),
        (
            "global",
            GLOBAL,
            r#"--set-json=tolerations=[{"key":"a","operator":"Exists","value":"b"}]"#,
            "'/tolerations/0/value'",
        ),
        (
            "dns",
            DNS,
            r#"--set-json=tolerations=[{"key":"a","effect":"NoSchedule","tolerationSeconds":5}]"#,
            "'/tolerations/0/effect'",
        ),
        (
            "region",
            region,
            r#"--set-json=operator.tolerations=[{"value":"b"}]"#,
            "'/operator/tolerations/0': missing property 'operator'",
        ),
        // A volume whose size could never be changed.
        (
            "region",
            region,
            "--set=operator.volume.persistent=true",
            "'volume' not allowed",
        ),
        // Of two gateways only one would be heard.
        (
            "region",
            region,
            "--set=gateway.replicas=2",
            "'replicas' not allowed",
        ),
        // A read API that the internet could read.
        (
            "region",
            region,
            "--set-json=gateway.admin.service.annotations=null",
            "missing property",
        ),
        (
            "region",
            region,
            r#"--set-json=gateway.admin.service.annotations={"service.beta.kubernetes.io/aws-load-balancer-scheme":"internet-facing"}"#,
            "value must be 'internal'",
        ),
        // A global plane that anybody could rule.
        (
            "global",
            GLOBAL,
            "--set-json=service.annotations=null",
            "missing property 'annotations'",
        ),
        (
            "global",
            GLOBAL,
            r#"--set-json=service.annotations={"service.beta.kubernetes.io/aws-load-balancer-scheme":"internet-facing"}"#,
            "value must be 'internal'",
        ),
        (
            "global",
            GLOBAL,
            r#"--set-json=service={"type":"LoadBalancer","annotations":{"metallb.io/loadBalancerIPs":"192.0.2.1","service.beta.kubernetes.io/aws-load-balancer-scheme":""}}"#,
            "does not match pattern",
        ),
        // AWS's cloud provider ignores the one, its controller the other.
        (
            "global",
            GLOBAL,
            r#"--set-json=service.annotations={"service.beta.kubernetes.io/aws-load-balancer-scheme":"internal"}"#,
            "missing property 'service.beta.kubernetes.io/aws-load-balancer-internal'",
        ),
        (
            "region",
            region,
            r#"--set-json=gateway.admin.service.annotations={"service.beta.kubernetes.io/aws-load-balancer-internal":"true"}"#,
            "missing property 'service.beta.kubernetes.io/aws-load-balancer-scheme'",
        ),
        (
            "global",
            GLOBAL,
            r#"--set-json=service={"loadBalancerClass":"x","annotations":{"service.beta.kubernetes.io/aws-load-balancer-scheme":"internal"}}"#,
            "value must be 'service.k8s.aws/nlb'",
        ),
        (
            "global",
            GLOBAL,
            r#"--set-json=service.annotations={"lbipam.cilium.io/ips":"10.0.0.1,192.0.2.1"}"#,
            "does not match pattern",
        ),
        (
            "global",
            GLOBAL,
            "--set=service.type=NodePort",
            "'/service/type'",
        ),
        (
            "global",
            GLOBAL,
            "--set=service.allowedRanges={0.0.0.0/0}",
            "'/service/allowedRanges/0'",
        ),
        (
            "global",
            GLOBAL,
            "--set=service.allowedRanges={10.0.0.0/0}",
            "'/service/allowedRanges/0'",
        ),
        (
            "global",
            GLOBAL,
            "--set=service.allowedRanges={172.32.0.0/16}",
            "'/service/allowedRanges/0'",
        ),
        (
            "global",
            GLOBAL,
            "--set-json=service.allowedRanges=[]",
            "'/service/allowedRanges': minItems",
        ),
        // A node that is no member.
        (
            "global",
            GLOBAL,
            "--set=node.id=4",
            "none with name \"global-iad\" and id 4",
        ),
        ("global", GLOBAL, "--set=node.id=0", "'/node/id': minimum"),
        (
            "dns",
            DNS,
            "--set-json=nameservers=[]",
            "'/nameservers': minItems",
        ),
        ("dns", DNS, "--set=kind=StatefulSet", "'/kind'"),
        ("dns", DNS, "--set=ttlSecs=0", "'/ttlSecs': minimum"),
        (
            "dns",
            DNS,
            "--set=service.nodePort=53",
            "'/service/nodePort': minimum",
        ),
    ] {
        let arguments = [base, &[bad]].concat();
        match helm.template(chart, &arguments) {
            Ok(_) => panic!("{chart} {bad} was taken"),
            Err(error) => {
                let said = format!("{error:#}");
                assert!(said.contains(want), "{chart} {bad}: {said}");
            }
        }
    }
}

#[test]
fn private_addresses_of_every_kind_are_taken() {
    let Some(helm) = helm("private_addresses_of_every_kind_are_taken") else {
        return;
    };
    for set in [
        r#"service.annotations={"metallb.io/loadBalancerIPs":"10.1.2.3"}"#,
        r#"service.annotations={"lbipam.cilium.io/ips":"10.1.2.3, fd00::1"}"#,
        r#"service.annotations={"kube-vip.io/loadbalancerIPs":"192.168.1.2"}"#,
        r#"service={"loadBalancerClass":"service.k8s.aws/nlb","annotations":{"service.beta.kubernetes.io/aws-load-balancer-scheme":"internal"}}"#,
        r#"service.annotations={"networking.gke.io/load-balancer-type":"Internal"}"#,
        r#"service={"type":"ClusterIP","annotations":{}}"#,
        r#"service.allowedRanges=["172.31.0.0/16","100.64.0.0/10","fd12:3456::/32"]"#,
    ] {
        let set = format!("--set-json={set}");
        helm.template("global", &["--values=examples/global-iad.yaml", &set])
            .unwrap();
    }
}

#[test]
fn charts_have_the_same_rules_in_common() {
    let schemas: Vec<Value> = ["region", "global", "dns"]
        .iter()
        .map(|chart| deploy().join(format!("charts/tradewind-{chart}/values.schema.json")))
        .map(|path| serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        .collect();
    // No chart can include another's.
    let mut compared = 0;
    for schema in &schemas[1..] {
        for (name, rule) in schema["$defs"].as_object().unwrap() {
            assert_eq!(schemas[0]["$defs"][name], *rule, "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 4);
    let private = |schema: &Value, service: &str| {
        let service = schema.pointer(service).unwrap();
        assert!(service["then"]["anyOf"].is_array(), "{service}");
        (service["if"].clone(), service["then"].clone())
    };
    assert_eq!(
        private(
            &schemas[0],
            "/properties/gateway/properties/admin/properties/service"
        ),
        private(&schemas[1], "/properties/service")
    );
}

#[test]
fn names_that_yaml_reads_as_something_else_stay_names() {
    let Some(helm) = helm("names_that_yaml_reads_as_something_else_stay_names") else {
        return;
    };
    for word in ["no", "true", "123"] {
        let name = format!("--set-string=region.name={word},warmPools[0].name={word}");
        let pool = "--set=warmPools[0].runtime=rust,warmPools[0].image=runtime-native,warmPools[0].size=1,warmPools[0].memoryMb=64";
        let arguments = ["--values=regions/iad.yaml", &name, pool];
        let objects = rendered(&helm, "region", &arguments);
        for object in &objects {
            if let Err(error) = read(object) {
                panic!("{word}: {error}");
            }
        }
        named(&objects, "WarmPool", word);
        let config = &named(&objects, "ConfigMap", "tradewind-gateway")["data"]["region.toml"];
        assert!(
            config
                .as_str()
                .unwrap()
                .contains(&format!("name = \"{word}\"\n")),
            "{config}"
        );
    }
}

#[test]
fn nothing_need_be_open_to_functions() {
    let Some(helm) = helm("nothing_need_be_open_to_functions") else {
        return;
    };
    for (blocked, open) in [
        ("0.0.0.0/0,::/0", vec![]),
        ("0.0.0.0/0", vec![json!({"cidr": "::/0"})]),
        (
            "::/0,10.0.0.0/8",
            vec![json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]})],
        ),
    ] {
        let set = format!("--set=functions.egress.blockedRanges={{{blocked}}}");
        let objects = rendered(&helm, "region", &["--values=regions/iad.yaml", &set]);
        let policy = &named(&objects, "NetworkPolicy", "tradewind-functions")["spec"];
        let rules = policy["egress"].as_array().unwrap();
        let found: Vec<&Value> = rules
            .iter()
            .flat_map(|rule| rule["to"].as_array().unwrap())
            .filter(|peer| !peer["ipBlock"].is_null())
            .map(|peer| &peer["ipBlock"])
            .collect();
        assert_eq!(found, open.iter().collect::<Vec<_>>(), "{blocked}");
        // Names are asked for all the same.
        assert_eq!(rules.last().unwrap()["ports"][0]["port"], 53);
    }
}

#[test]
fn numbers_are_written_out() {
    let Some(helm) = helm("numbers_are_written_out") else {
        return;
    };
    let most = "--set=headroom.replicas=1,headroom.memoryMb=1048576,headroom.cpuMillis=1000000";
    let objects = rendered(&helm, "region", &["--values=regions/iad.yaml", most]);
    let pod = &named(&objects, "Deployment", "tradewind-headroom")["spec"]["template"]["spec"];
    assert_eq!(
        pod["containers"][0]["resources"],
        json!({
            "requests": {"cpu": "1000000m", "memory": "1048576Mi"},
            "limits": {"memory": "1048576Mi"},
        })
    );
}

#[test]
fn a_bare_number_of_cpus_is_taken() {
    let Some(helm) = helm("a_bare_number_of_cpus_is_taken") else {
        return;
    };
    for (chart, base, set) in [
        (
            "region",
            "--values=regions/iad.yaml",
            "--set=gateway.resources.requests.cpu=2",
        ),
        (
            "dns",
            "--values=examples/dns.yaml",
            "--set-json=resources.requests.cpu=0.5",
        ),
    ] {
        helm.template(chart, &[base, set]).unwrap();
    }
}

#[test]
fn the_chart_has_the_definitions_of_this_version() {
    use kube::CustomResourceExt as _;
    let definitions = [
        region_plane_resources::Function::crd(),
        region_plane_resources::WarmPool::crd(),
    ];
    let mut wanted = String::new();
    for definition in &definitions {
        let text = serde_saphyr::to_string(definition).unwrap();
        wanted.push_str(&format!("---\n{}\n", text.trim_end()));
    }
    let path = deploy().join("charts/tradewind-region/crds/tradewind.yaml");
    let found = std::fs::read_to_string(path).unwrap();
    assert!(
        found == wanted,
        "cargo run -p region-plane-resources --example crds > deploy/charts/tradewind-region/crds/tradewind.yaml"
    );
    let objects = documents(&found).unwrap();
    assert_eq!(objects.len(), definitions.len());
    for object in &objects {
        read(object).unwrap();
    }
}

#[test]
fn docker_builds_the_programs_that_the_script_does() {
    let read = |path: &str| std::fs::read_to_string(deploy().join(path)).unwrap();
    // `tradewind-dns) program dns-server "$name" 65532 ;;`
    let script = read("../scripts/images");
    let scripted: BTreeSet<(&str, &str, &str)> = script
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().split_once(") program ")?;
            let mut words = rest.split(' ');
            Some((words.next()?, name, words.nth(1)?))
        })
        .collect();
    assert!(scripted.len() > 3, "{scripted:?}");
    let dockerfile = read("images/Dockerfile");
    let stages: BTreeSet<(&str, &str, &str)> = dockerfile
        .split("\n# -p ")
        .skip(1)
        .map(|stage| {
            let mut lines = stage.lines();
            let package = lines.next().unwrap();
            let name = lines.next().unwrap().strip_prefix("FROM base AS ").unwrap();
            let entry = format!("ENTRYPOINT [\"/usr/bin/{name}\"]");
            assert!(stage.contains(&entry), "{stage}");
            let user = lines.find_map(|line| line.strip_prefix("USER ")).unwrap();
            let (user, group) = user.split_once(':').unwrap();
            assert_eq!(user, group, "{name}");
            (package, name, user)
        })
        .collect();
    assert_eq!(stages, scripted);
}
