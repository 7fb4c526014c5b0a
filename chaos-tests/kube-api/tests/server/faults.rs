//! Faults strike as told, and every call is counted.

use std::time::{Duration, Instant};

use chaos_tests_kube_api::{Calls, Effect, KubeApi, Verb};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{USER, config_map, pod, refusal, server};

/// A client that shows what the server answered first.
fn impatient(server: &KubeApi) -> Client {
    let mut config = server.config(USER);
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn each_refusal_reads_as_the_real_one() {
    let server = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(impatient(&server));
    for (effect, code, reason, words) in [
        (
            Effect::Unavailable,
            503,
            "ServiceUnavailable",
            "currently unable",
        ),
        (
            Effect::InternalError,
            500,
            "InternalError",
            "Internal error",
        ),
        (
            Effect::Conflict,
            409,
            "Conflict",
            "resourcequotas \"compute\": the object has been modified",
        ),
        (
            Effect::Forbidden,
            403,
            "Forbidden",
            "User \"tests\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"tradewind\"",
        ),
    ] {
        server.faults().next(1, Calls::writes(), effect.clone());
        let refused = refusal(
            api.create(&PostParams::default(), &config_map("a", "1"))
                .await,
        );
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (code, reason),
            "{effect:?}"
        );
        assert!(refused.message.contains(words), "{refused:?}");
    }
    assert!(
        api.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

/// What kube makes of text loses the header, so this reads the bytes.
async fn answer_to(server: &KubeApi, path: &str) -> String {
    let address = server.url().replace("http://", "");
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn what_never_reaches_the_api_is_refused_in_plain_text() {
    let server = server().await;
    let effect = Effect::TooManyRequests {
        retry_after_secs: 7,
    };
    server.faults().begin(Calls::all().resource("pods"), effect);
    for (path, code, header, said) in [
        (
            "/api/v1/namespaces/tradewind/pods",
            429,
            "retry-after: 7\r\n",
            "Too many requests, please try again later.\n",
        ),
        (
            "/apis/tradewind.dev/v1alpha1/namespaces/tradewind/nothings",
            404,
            "content-type: text/plain; charset=utf-8\r\n",
            "404 page not found\n",
        ),
    ] {
        let answer = answer_to(&server, path).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{head}");
        assert!(format!("{head}\r\n").contains(header), "{head}");
        assert_eq!(body, said);
    }
    let api: Api<Pod> = Api::default_namespaced(impatient(&server));
    let refused = refusal(api.list(&ListParams::default()).await);
    assert_eq!((refused.code, refused.details.is_none()), (429, true));
}

#[tokio::test]
async fn kubes_own_retries_get_through_and_are_counted() {
    let server = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(server.client(USER));
    server
        .faults()
        .next(2, Calls::writes(), Effect::Unavailable);
    api.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let counted = server.counts().of(&Calls::writes());
    assert_eq!(
        (counted.requests, counted.refused, counted.changed),
        (3, 2, 1)
    );
}

#[tokio::test]
async fn a_lost_answer_leaves_the_write_done_and_a_lost_request_does_not() {
    let server = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(impatient(&server));
    for (name, effect, done) in [("a", Effect::DropAnswer, true), ("b", Effect::Drop, false)] {
        server.faults().next(1, Calls::writes(), effect);
        let sent = api
            .create(&PostParams::default(), &config_map(name, "1"))
            .await;
        assert!(
            !matches!(sent, Ok(_) | Err(kube::Error::Api(_))),
            "{sent:?}"
        );
        assert_eq!(api.get_opt(name).await.unwrap().is_some(), done, "{name}");
    }
}

#[tokio::test]
async fn a_limit_lets_its_rate_through() {
    let server = server().await;
    let api: Api<Pod> = Api::default_namespaced(impatient(&server));
    let creations = Calls::all().verbs(&[Verb::Create]).resource("pods");
    server
        .faults()
        .begin(creations.clone(), Effect::Limit { per_second: 5 });
    let start = Instant::now();
    for at in 0..20 {
        // Refusals are the point.
        let _ = api
            .create(&PostParams::default(), &pod(&format!("p{at}")))
            .await;
    }
    let allowed = f64::from(1 + 5) + start.elapsed().as_secs_f64() * 5.0;
    let counted = server.counts().of(&creations);
    assert!(counted.changed >= 1 && counted.refused >= 1, "{counted:?}");
    assert!(
        f64::from(u32::try_from(counted.changed).unwrap()) <= allowed,
        "{counted:?}"
    );
}

#[tokio::test]
async fn one_users_faults_leave_others_alone() {
    let server = server().await;
    server
        .faults()
        .begin(Calls::all().user("a"), Effect::Forbidden);
    server.faults().begin(
        Calls::all().user("b"),
        Effect::Delay(Duration::from_millis(1)),
    );
    let of = |user: &str| -> Api<Pod> { Api::default_namespaced(server.client(user)) };
    assert_eq!(
        refusal(of("a").list(&ListParams::default()).await).code,
        403
    );
    of("b").list(&ListParams::default()).await.unwrap();
    server.faults().end_all();
    of("a").list(&ListParams::default()).await.unwrap();
}

#[tokio::test]
async fn an_outage_refuses_everything_until_it_ends() {
    let server = server().await;
    let api: Api<Pod> = Api::default_namespaced(impatient(&server));
    let near: Api<Pod> = Api::default_namespaced(server.client_in_process(USER));
    api.create(&PostParams::default(), &pod("p")).await.unwrap();
    server.begin_outage();
    for api in [&api, &near] {
        let asked = api.get("p").await;
        assert!(
            !matches!(asked, Ok(_) | Err(kube::Error::Api(_))),
            "{asked:?}"
        );
    }
    server.end_outage();
    for api in [&api, &near] {
        api.get("p").await.unwrap();
    }
}

#[tokio::test]
async fn a_period_without_writes_counts_none() {
    let server = server().await;
    let api: Api<ConfigMap> = Api::default_namespaced(server.client(USER));
    api.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let before = server.counts();
    api.get("a").await.unwrap();
    api.list(&ListParams::default()).await.unwrap();
    let period = server.counts().since(&before);
    assert_eq!(period.of(&Calls::writes()).requests, 0, "{period}");
    let reads = period.of(&Calls::all());
    assert_eq!(reads.requests, 2);
    assert!(reads.bytes_out > 0);
    assert_eq!(server.writes().len(), 1);
}
