#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use region_plane_resources::{FunctionSpec, Scaling, WarmPoolSpec};

use super::*;

/// Compares with the file, or writes it where `UPDATE_GOLDEN` is set.
fn check(name: &str, pod: &Pod) {
    let text = serde_saphyr::to_string(pod).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/template")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, golden, "UPDATE_GOLDEN=1 writes {}", path.display());
    let read: Pod = serde_saphyr::from_str(&golden).unwrap();
    assert_eq!(read, *pod);
}

fn function() -> Function {
    let spec = FunctionSpec {
        revision: 7,
        app_id: "01APP".to_owned(),
        app_name: "shop".to_owned(),
        fn_id: "01FN".to_owned(),
        fn_name: "pay$(HOME)".to_owned(),
        image: Some("registry.example/pay@sha256:00".to_owned()),
        bundle: None,
        memory_mb: 256,
        timeout_secs: 30,
        idle_timeout_secs: 30,
        config_secret: Some("fn-01fn-0123456789".to_owned()),
        scaling: Scaling::default(),
        shape: String::new(),
        settings: "00000000000000ab".to_owned(),
    };
    let mut function = Function::new("fn-01fn", spec);
    function.metadata.uid = Some("7f0c".to_owned());
    function
}

fn pool() -> WarmPool {
    let spec = WarmPoolSpec {
        runtime: "python3.11".to_owned(),
        image: "localhost/tradewind/runtime-python:dev".to_owned(),
        size: 2,
        memory_mb: 128,
        cpu_millis: 50,
    };
    let mut pool = WarmPool::new("python", spec);
    pool.metadata.uid = Some("9a1b".to_owned());
    pool
}

fn settings() -> PodSettings {
    PodSettings {
        priority_class: "tradewind-function".to_owned(),
        ..PodSettings::default()
    }
}

fn made(dedicated: Option<&str>, memory_mb: u64) -> Made<'_> {
    Made {
        name: "made-bcdfgh".to_owned(),
        memory_mb,
        dedicated,
        fence: 3,
    }
}

#[test]
fn an_image_functions_pod_is_this() {
    let pod = image_pod(&function(), &settings(), &made(None, 256)).unwrap();
    check("image.yaml", &pod);
}

#[test]
fn a_pools_pod_is_this() {
    check(
        "pool.yaml",
        &pool_pod(&pool(), &settings(), &made(Some("fn-large"), 512)),
    );
}

#[test]
fn a_template_stands_for_all_but_resources_and_settings() {
    let template = |change: &dyn Fn(&mut Function)| {
        let mut function = function();
        change(&mut function);
        image_template(&function, &settings()).unwrap()
    };
    let before = template(&|_| {});
    assert_eq!(before.len(), 16);
    assert_eq!(
        template(&|function| function.spec.memory_mb = 1_024),
        before
    );
    assert_eq!(
        template(&|function| function.spec.settings = "1".repeat(16)),
        before
    );
    assert_eq!(template(&|function| function.metadata.uid = None), before);
    assert_ne!(
        template(&|function| function.spec.image = Some("other".to_owned())),
        before
    );
    assert_ne!(
        template(&|function| function.spec.config_secret = None),
        before
    );
    assert_ne!(
        template(&|function| function.spec.fn_name = "other".to_owned()),
        before
    );
    let of_a_pool = pool_template(&pool(), &settings());
    let changes: [&dyn Fn(&mut PodSettings); 3] = [
        &|settings| settings.runner_image = "runner:2".to_owned(),
        &|settings| settings.runtime_class = "gvisor".to_owned(),
        &|settings| settings.tolerations.push(Toleration::default()),
    ];
    for change in changes {
        let mut settings = settings();
        change(&mut settings);
        assert_ne!(image_template(&function(), &settings).unwrap(), before);
        assert_ne!(pool_template(&pool(), &settings), of_a_pool);
    }
}

#[test]
fn a_pod_goes_where_functions_may_run() {
    let tolerated = Toleration {
        key: Some("functions".to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    };
    let settings = PodSettings {
        tolerations: vec![tolerated.clone()],
        runtime_class: "gvisor".to_owned(),
        ..settings()
    };
    let pods = [
        image_pod(&function(), &settings, &made(None, 256)).unwrap(),
        pool_pod(&pool(), &settings, &made(None, 128)),
    ];
    for pod in pods {
        let spec = pod.spec.unwrap();
        assert_eq!(spec.runtime_class_name.as_deref(), Some("gvisor"));
        let tolerations = spec.tolerations.unwrap();
        assert_eq!(tolerations.len(), 3, "and leaves a lost node as before");
        assert_eq!(tolerations[2], tolerated);
    }
}

#[test]
fn what_is_asked_for_is_all_a_pod_may_have() {
    let pod = pool_pod(&pool(), &settings(), &made(None, 128));
    let spec = pod.spec.unwrap();
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    for container in containers {
        let security = container.security_context.as_ref().unwrap();
        assert_eq!(
            security.allow_privilege_escalation,
            Some(false),
            "{}",
            container.name
        );
        assert_eq!(
            security.read_only_root_filesystem,
            Some(true),
            "{}",
            container.name
        );
        let dropped = security
            .capabilities
            .as_ref()
            .unwrap()
            .drop
            .clone()
            .unwrap();
        assert_eq!(dropped, ["ALL"], "{}", container.name);
        let resources = container.resources.as_ref().unwrap();
        assert!(
            resources.limits.as_ref().unwrap().contains_key("memory"),
            "{}",
            container.name
        );
    }
    assert_eq!(spec.automount_service_account_token, Some(false));
    assert_eq!(spec.enable_service_links, Some(false));
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
}

#[test]
fn a_runner_gives_up_its_call_before_it_is_killed() {
    for (grace_secs, told) in [(2, "1000"), (5, "4000"), (60, "59000"), (3_600, "3599000")] {
        let settings = PodSettings {
            termination_grace: Duration::from_secs(grace_secs),
            ..settings()
        };
        let spec = pool_pod(&pool(), &settings, &made(None, 128)).spec.unwrap();
        let runner = &spec.containers[1];
        let mut env = runner.env.iter().flatten();
        let grace = env.find(|variable| variable.name == "TRADEWIND_RUNNER_GRACE_MS");
        assert_eq!(grace.unwrap().value.as_deref(), Some(told));
        let whole = i64::try_from(grace_secs).unwrap();
        assert_eq!(spec.termination_grace_period_seconds, Some(whole));
    }
}
