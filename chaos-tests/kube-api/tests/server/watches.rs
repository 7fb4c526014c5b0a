//! Lists and watches, as kube's watcher and reflector use them.

use std::collections::BTreeSet;
use std::time::Duration;

use chaos_tests_kube_api::{Calls, Effect, KubeApi, Verb, WatchEnd};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, VersionMatch, WatchEvent, WatchParams,
};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, Config, ResourceExt as _};
use serde_json::json;
use tokio::time::timeout;

use crate::both::namespaced;
use crate::{USER, config_map, config_maps, refusal, server};

/// Nothing here takes long; this only keeps a broken test from hanging.
const PATIENCE: Duration = Duration::from_secs(20);

async fn fill(api: &Api<ConfigMap>, names: impl IntoIterator<Item = usize>) {
    for at in names {
        let object = config_map(&format!("map-{at:03}"), "x");
        api.create(&PostParams::default(), &object).await.unwrap();
    }
}

type Events =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = watcher::Result<Event<ConfigMap>>> + Send>>;

/// Reads events up to and with the end of an initial list; errors are the caller's to expect.
async fn initial(events: &mut Events) -> (BTreeSet<String>, Vec<watcher::Error>) {
    let mut names = BTreeSet::new();
    let mut errors = Vec::new();
    loop {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
            Ok(Event::Init) => names.clear(),
            Ok(Event::InitApply(object)) => {
                names.insert(object.name_any());
            }
            Ok(Event::InitDone) => return (names, errors),
            Ok(Event::Apply(_) | Event::Delete(_)) => panic!("not initial"),
            Err(error) => errors.push(error),
        }
    }
}

async fn next(events: &mut Events) -> String {
    loop {
        match timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
            Ok(Event::Apply(object)) => return format!("apply {}", object.name_any()),
            Ok(Event::Delete(object)) => return format!("delete {}", object.name_any()),
            Ok(Event::Init | Event::InitApply(_) | Event::InitDone) => panic!("listed again"),
            // An ended watch resumes.
            Err(_) => {}
        }
    }
}

fn watching(api: &Api<ConfigMap>, config: watcher::Config) -> Events {
    Box::pin(watcher::watcher(api.clone(), config).default_backoff())
}

async fn watched(server: &KubeApi, many: usize) {
    let calls = Calls::all().verbs(&[Verb::Watch]).resource("configmaps");
    timeout(PATIENCE, async {
        while server.watches(&calls) != many {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

pub async fn paged_and_streaming_lists_show_the_same_and_then_changes(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    fill(&api, 0..25).await;
    for config in [
        watcher::Config::default().page_size(10),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut events = watching(&api, config);
        let (names, errors) = initial(&mut events).await;
        assert_eq!((names.len(), errors.len()), (25, 0));
        fill(&api, [25]).await;
        assert_eq!(next(&mut events).await, "apply map-025");
        api.delete("map-025", &DeleteParams::default())
            .await
            .unwrap();
        assert_eq!(next(&mut events).await, "delete map-025");
    }
}

#[tokio::test]
async fn a_streaming_list_asks_for_no_pages() {
    let server = server().await;
    paged_and_streaming_lists_show_the_same_and_then_changes(server.config(USER)).await;
    let lists = server.counts().of(&Calls::all().verbs(&[Verb::List]));
    assert_eq!(
        lists.requests, 3,
        "25 in pages of 10; streaming lists ask for none"
    );
}

pub async fn pages_show_one_moment(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    fill(&api, 0..4).await;
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(2));
    api.delete("map-003", &DeleteParams::default())
        .await
        .unwrap();
    fill(&api, 4..6).await;
    let token = first.metadata.continue_.unwrap();
    let second = api
        .list(&ListParams::default().continue_token(&token))
        .await
        .unwrap();
    let names: Vec<String> = second.iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(names, ["map-002", "map-003"]);
    assert_eq!(
        second.metadata.resource_version,
        first.metadata.resource_version
    );
}

#[tokio::test]
async fn compaction_expires_continues_and_old_watches() {
    let server = server().await;
    let api = config_maps(&server);
    fill(&api, 0..4).await;
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    server.compact();
    let token = first.metadata.continue_.clone().unwrap();
    let refused = refusal(
        api.list(&ListParams::default().continue_token(&token))
            .await,
    );
    assert_eq!((refused.code, refused.reason.as_str()), (410, "Expired"));

    let version = first.metadata.resource_version.unwrap();
    let events = api.watch(&WatchParams::default(), &version).await.unwrap();
    let events: Vec<WatchEvent<ConfigMap>> = timeout(PATIENCE, events.try_collect())
        .await
        .unwrap()
        .unwrap();
    match events.as_slice() {
        [WatchEvent::Error(status)] => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
}

pub async fn a_watch_from_a_version_shows_every_change_since(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    let version = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    fill(&api, 0..1200).await;
    let params = WatchParams::default();
    let events = api.watch(&params, &version).await.unwrap();
    let seen: Vec<String> = timeout(
        PATIENCE,
        events
            .take(1200)
            .map_ok(|event| match event {
                WatchEvent::Added(object) => object.name_any(),
                other => panic!("{other:?}"),
            })
            .try_collect(),
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!(seen.first().unwrap(), "map-000");
    assert_eq!(seen.last().unwrap(), "map-1199");
}

/// A list waits for a moment and is then refused. A watch waits until its own time is over:
/// "Unavailable resource versions" in Kubernetes' page on API concepts.
pub async fn a_version_not_reached_yet_refuses_a_list_and_keeps_a_watch_waiting(
    mut config: Config,
) {
    // kube's default client asks again and again for as long as the server is behind.
    config.default_retry = false;
    let api = namespaced::<ConfigMap>(&config);
    let version = "999999999999";
    let later = ListParams::default()
        .at(version)
        .matching(VersionMatch::NotOlderThan);
    let refused = refusal(api.list(&later).await);
    assert_eq!((refused.code, refused.reason.as_str()), (504, "Timeout"));

    let params = WatchParams::default().timeout(1);
    let mut events = Box::pin(api.watch(&params, version).await.unwrap());
    fill(&api, [0]).await;
    let ended = async {
        while let Some(event) = events.try_next().await.unwrap() {
            assert!(matches!(event, WatchEvent::Bookmark(_)), "{event:?}");
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
}

#[tokio::test]
async fn a_cut_watch_resumes_and_an_expired_one_lists_again() {
    let server = server().await;
    let api = config_maps(&server);
    fill(&api, 0..3).await;
    for (end, relists) in [
        (WatchEnd::Finished, false),
        (WatchEnd::Dropped, false),
        (WatchEnd::Expired, true),
    ] {
        let mut events = watching(&api, watcher::Config::default().streaming_lists());
        initial(&mut events).await;
        // The watcher is between two polls: its watch is open.
        watched(&server, 1).await;
        server.end_watches(&Calls::all(), end);
        if relists {
            let (names, errors) = initial(&mut events).await;
            assert_eq!((names.len(), errors.len()), (3, 1), "{end:?}");
        } else {
            fill(&api, [9]).await;
            assert_eq!(next(&mut events).await, "apply map-009", "{end:?}");
            api.delete("map-009", &DeleteParams::default())
                .await
                .unwrap();
        }
    }
}

pub async fn a_watch_with_a_selector_sees_objects_come_and_go(config: Config) {
    let api = namespaced::<ConfigMap>(&config);
    let mut events = watching(&api, watcher::Config::default().labels("app=yes"));
    initial(&mut events).await;
    api.create(&PostParams::default(), &config_map("a", "no"))
        .await
        .unwrap();
    for (app, want) in [("yes", "apply a"), ("no", "delete a")] {
        let label = json!({ "metadata": { "labels": { "app": app } } });
        api.patch("a", &PatchParams::default(), &Patch::Merge(label))
            .await
            .unwrap();
        assert_eq!(next(&mut events).await, want);
    }
}

#[tokio::test]
async fn bookmarks_carry_a_quiet_watch_over_a_compaction() {
    let server = server().await;
    server.set_bookmarks_every(Duration::from_millis(5));
    let api = config_maps(&server);
    fill(&api, [0]).await;
    let before = server.revision();
    let params = WatchParams::default();
    let events = api.watch(&params, &before.to_string()).await.unwrap();
    let mut events = Box::pin(events);
    // A change that the watch has yet to read when its history goes, and one after.
    fill(&api, [1]).await;
    server.compact();
    let compacted = server.revision();
    fill(&api, [2]).await;
    let mut seen = Vec::new();
    let reached = timeout(PATIENCE, async {
        loop {
            match events.try_next().await.unwrap().unwrap() {
                WatchEvent::Added(object) => seen.push(object.name_any()),
                WatchEvent::Bookmark(bookmark) => {
                    let reached = bookmark.metadata.resource_version.parse::<u64>().unwrap();
                    if reached > compacted {
                        return reached;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(
        seen,
        ["map-001", "map-002"],
        "it goes on as if nothing were"
    );

    for (from, refused) in [(before, true), (reached, false)] {
        let mut events = Box::pin(api.watch(&params, &from.to_string()).await.unwrap());
        match timeout(PATIENCE, events.try_next()).await.unwrap() {
            Ok(Some(WatchEvent::Error(status))) => assert_eq!((status.code, refused), (410, true)),
            Ok(Some(WatchEvent::Bookmark(_))) => assert!(!refused, "from {from}"),
            other => panic!("from {from}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_silent_watch_says_nothing_and_stays_open_past_its_time() {
    let server = server().await;
    server.set_bookmarks_every(Duration::from_millis(5));
    let api = config_maps(&server);
    let params = WatchParams::default().timeout(1);
    let mut events = Box::pin(api.watch(&params, "0").await.unwrap());
    watched(&server, 1).await;
    server.end_watches(&Calls::all(), WatchEnd::Silent);
    fill(&api, [0]).await;
    // One that begins later hears of the change, and ends in its time.
    let mut later = Box::pin(api.watch(&params, "0").await.unwrap());
    let mut added = 0;
    timeout(PATIENCE, async {
        while let Some(event) = later.next().await {
            added += u32::from(matches!(event.unwrap(), WatchEvent::Added(_)));
        }
    })
    .await
    .unwrap();
    assert_eq!(added, 1);
    // What was under way.
    let mut heard = events.next().now_or_never();
    while let Some(Some(Ok(WatchEvent::Bookmark(_)))) = heard {
        heard = events.next().now_or_never();
    }
    assert!(heard.is_none(), "it said something or ended: {heard:?}");
}

#[tokio::test]
async fn a_server_without_streaming_lists_says_so() {
    let server = server().await;
    server.refuse_streaming_lists();
    let api = config_maps(&server);
    fill(&api, 0..3).await;
    let mut events = watching(&api, watcher::Config::default().streaming_lists());
    match timeout(PATIENCE, events.next()).await.unwrap().unwrap() {
        Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) => {
            assert_eq!(status.code, 422);
            assert!(status.message.contains("sendInitialEvents"), "{status:?}");
        }
        other => panic!("{other:?}"),
    }
    let mut events = watching(&api, watcher::Config::default().page_size(2));
    assert_eq!(initial(&mut events).await.0.len(), 3);
}

#[tokio::test]
async fn broken_and_empty_initial_lists_show_as_they_would_for_real() {
    let server = server().await;
    let api = config_maps(&server);
    fill(&api, 0..30).await;
    let reads = Calls::all().verbs(&[Verb::List, Verb::Watch]);
    for config in [
        watcher::Config::default().page_size(10),
        watcher::Config::default().streaming_lists(),
    ] {
        server
            .faults()
            .next(1, reads.clone(), Effect::BreakList { after: 7 });
        let mut events = watching(&api, config.clone());
        let (names, errors) = initial(&mut events).await;
        assert_eq!(names.len(), 30, "a broken list is never complete");
        assert!(errors.len() <= 1, "{errors:?}");

        server.faults().next(1, reads.clone(), Effect::EmptyList);
        let mut events = watching(&api, config);
        let (names, _) = initial(&mut events).await;
        assert!(
            names.is_empty(),
            "an empty list that claims to be complete is believed"
        );
    }
}

#[tokio::test]
async fn a_reflector_follows_through_an_outage() {
    let server = server().await;
    let api = config_maps(&server);
    fill(&api, 0..5).await;
    let (store, writer) = reflector::store();
    let stream = watcher::watcher(api.clone(), watcher::Config::default().streaming_lists())
        .default_backoff()
        .reflect(writer);
    let mut stream = Box::pin(stream);
    timeout(PATIENCE, async {
        while store.len() < 5 {
            let _ = stream.next().await;
        }
    })
    .await
    .unwrap();

    server.begin_outage();
    timeout(PATIENCE, async {
        while stream.next().await.unwrap().is_ok() {}
    })
    .await
    .unwrap();
    assert_eq!(store.len(), 5, "an outage takes nothing away");
    server.end_outage();
    fill(&api, [5]).await;
    timeout(PATIENCE, async {
        while store.len() < 6 {
            let _ = stream.next().await;
        }
    })
    .await
    .unwrap();
}
