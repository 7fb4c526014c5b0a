//! How often the API server was written to, by its own count.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;

/// What calls could make a region write to, with their subresources. Others write as they like in a
/// cluster that is not bare: heartbeats, leaders, events of add-ons. The region's own events are
/// counted by the tests of the operator.
const OURS: [&str; 4] = ["pods", "secrets", "functions", "warmpools"];

/// Requests that wrote to what a region writes to, by resource.
pub async fn counted(client: &Client) -> anyhow::Result<BTreeMap<String, u64>> {
    let request = http::Request::get("/metrics")
        .body(Vec::new())
        .context("a request")?;
    let text = client
        .request_text(request)
        .await
        .context("read the API server's metrics")?;
    Ok(count(&text))
}

/// What was written from one count to another.
#[must_use]
pub fn between(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let grown = after.iter().filter_map(|(resource, count)| {
        let more = count.saturating_sub(before.get(resource).copied().unwrap_or(0));
        (more > 0).then(|| (resource.clone(), more))
    });
    grown.collect()
}

/// Watches for `window` and returns what was written meanwhile.
pub async fn during(client: &Client, window: Duration) -> anyhow::Result<BTreeMap<String, u64>> {
    let before = counted(client).await?;
    tokio::time::sleep(window).await;
    Ok(between(&before, &counted(client).await?))
}

fn count(text: &str) -> BTreeMap<String, u64> {
    let mut writes = BTreeMap::new();
    for line in text.lines() {
        let Some(line) = line.strip_prefix("apiserver_request_total{") else {
            continue;
        };
        let Some((labels, value)) = line.rsplit_once("} ") else {
            continue;
        };
        let label = |name: &str| {
            let start = format!("{name}=\"");
            let found = labels
                .split(',')
                .find_map(|label| label.strip_prefix(&start));
            found
                .and_then(|value| value.strip_suffix('"'))
                .unwrap_or_default()
        };
        let wrote = [
            "POST",
            "PUT",
            "PATCH",
            "APPLY",
            "DELETE",
            "DELETECOLLECTION",
        ]
        .contains(&label("verb"));
        if !wrote || !OURS.contains(&label("resource")) {
            continue;
        }
        let resource = match label("subresource") {
            "" => label("resource").to_owned(),
            subresource => format!("{}/{subresource}", label("resource")),
        };
        if let Ok(value) = value.trim().parse::<u64>() {
            *writes.entry(resource).or_default() += value;
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_a_regions_resources_are_counted_without_reads_and_others() {
        let text = "\
# TYPE apiserver_request_total counter
apiserver_request_total{code=\"201\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 7
apiserver_request_total{code=\"409\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 1
apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"status\",verb=\"PATCH\",version=\"v1\"} 2
apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} 9
apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"coordination.k8s.io\",resource=\"leases\",scope=\"resource\",subresource=\"\",verb=\"PUT\",version=\"v1\"} 50
apiserver_request_total{code=\"201\",component=\"apiserver\",dry_run=\"\",group=\"authorization.k8s.io\",resource=\"subjectaccessreviews\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 3
";
        let before = count(text);
        assert_eq!(
            before,
            [("pods".to_owned(), 8), ("pods/status".to_owned(), 2)].into()
        );
        let after = count(&text.replace(
            "verb=\"POST\",version=\"v1\"} 7",
            "verb=\"POST\",version=\"v1\"} 8",
        ));
        assert_eq!(between(&before, &after), [("pods".to_owned(), 1)].into());
    }
}
