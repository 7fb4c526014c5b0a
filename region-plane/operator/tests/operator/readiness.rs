//! An operator is ready to take over once it has seen the cluster, and whatever happens then.

use chaos_tests_kube_api::{Calls, Effect, Verb};
use region_plane_operator::Source;

use crate::region::{OPERATOR, Region, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn one_is_ready_once_it_has_listed_and_stays_so_without_the_server() {
    let mut region = Region::start().await;
    let leader = region.operate().await;
    assert_eq!(leader.handle.status().readiness(), Ok(()));

    // An upgrade that takes away a right: the next one, which does not lead, must not pass for well.
    let reads = Calls::all()
        .user(OPERATOR)
        .verbs(&[Verb::List, Verb::Watch])
        .resource("warmpools.tradewind.dev");
    let fault = region.api.faults().begin(reads, Effect::Forbidden);
    let next = region.begin("two", Source::Objects);
    eventually("it waits for pools alone", async || {
        let said = next.handle.status().readiness().unwrap_err();
        let want = "not listed yet: warmpools.tradewind.dev (the Role does not allow it)";
        (said == want).then_some(())
    })
    .await;
    region.api.faults().end(fault);
    eventually("the next is ready", async || {
        next.handle.status().readiness().ok()
    })
    .await;
    assert!(!next.handle.status().leading, "and need not lead for it");

    region.api.begin_outage();
    eventually("nobody leads", async || {
        (!leader.handle.status().leading).then_some(())
    })
    .await;
    for operator in [&leader, &next] {
        assert_eq!(operator.handle.status().readiness(), Ok(()));
    }
    // One that starts now knows nothing.
    let last = region.begin("three", Source::Objects);
    let said = eventually("it says why", async || {
        let said = last.handle.status().readiness().unwrap_err();
        said.contains("does not answer").then_some(said)
    })
    .await;
    for kind in ["functions", "warmpools", "pods", "secrets"] {
        assert!(said.contains(kind), "{said}");
    }
    region.api.end_outage();
    eventually("the last is ready", async || {
        last.handle.status().readiness().ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_not_looked_or_lacks_a_definition_is_not_ready() {
    let mut region = Region::bare().await;
    let operator = region.begin("one", Source::Objects);
    let at_first = operator.handle.status().readiness().unwrap_err();
    assert!(at_first.contains("pods"), "{at_first}");
    let said = eventually("it names what is not defined", async || {
        let said = operator.handle.status().readiness().unwrap_err();
        let all = said.matches("does not know them").count() == 2 && !said.contains("pods");
        all.then_some(said)
    })
    .await;
    assert!(said.contains("functions.tradewind.dev"), "{said}");
    region.define();
    eventually("it is ready", async || {
        operator.handle.status().readiness().ok()
    })
    .await;
}
