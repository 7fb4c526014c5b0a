//! Functions as their owners see them: through Fn's API and the CLI.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use chaos_tests_cluster::Federation;
use chaos_tests_cluster::federation::binary;
use reqwest::Method;
use serde_json::{Value, json};

/// A function that was made here, with a trigger of its name.
#[derive(Debug, Clone)]
pub struct Made {
    pub app: String,
    pub name: String,
    pub id: String,
}

impl Made {
    /// Where a gateway takes calls of it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/t/{}/{}", self.app, self.name)
    }

    /// The name of its objects in the cluster.
    pub fn object(&self) -> anyhow::Result<String> {
        let name = region_plane_resources::object_name(&api_types::FnId::new(&self.id));
        name.context("ids that are minted have object names")
    }
}

pub struct Functions {
    /// Base URL of a global node.
    api: String,
    http: reqwest::Client,
}

impl Functions {
    pub fn of(federation: &Federation) -> anyhow::Result<Self> {
        let apis = federation.apis()?;
        Ok(Self::at(apis.first().context("a global node runs")?))
    }

    #[must_use]
    pub fn at(api: &str) -> Self {
        Self {
            api: api.to_owned(),
            http: reqwest::Client::new(),
        }
    }

    /// Makes a function of an image, and its app where there is none yet. `fields` are further
    /// fields of the function.
    pub async fn image(
        &self,
        app: &str,
        name: &str,
        image: &str,
        fields: Value,
    ) -> anyhow::Result<Made> {
        let found = self
            .ask(Method::GET, &format!("/v2/apps?name={app}"), None)
            .await?;
        let app_id = match found["items"][0]["id"].as_str() {
            Some(id) => id.to_owned(),
            None => {
                let made = self
                    .ask(Method::POST, "/v2/apps", Some(json!({"name": app})))
                    .await?;
                made["id"].as_str().context("an app has an id")?.to_owned()
            }
        };
        let mut function = fields;
        function["app_id"] = app_id.clone().into();
        function["name"] = name.into();
        function["image"] = image.into();
        let made = self.ask(Method::POST, "/v2/fns", Some(function)).await?;
        let id = made["id"]
            .as_str()
            .context("a function has an id")?
            .to_owned();
        let trigger = json!({
            "app_id": app_id, "fn_id": id, "name": name, "type": "http", "source": format!("/{name}"),
        });
        self.ask(Method::POST, "/v2/triggers", Some(trigger))
            .await?;
        Ok(Made {
            app: app.to_owned(),
            name: name.to_owned(),
            id,
        })
    }

    /// Deploys a folder as `tradewind deploy` does: it returns when every region holds it.
    pub async fn deploy(&self, app: &str, name: &str, folder: &Path) -> anyhow::Result<Made> {
        let output = Command::new(binary("tradewind")?)
            .args(["deploy", "--app", app])
            .arg(folder)
            .env("TRADEWIND_API", &self.api)
            .stdin(Stdio::null())
            .output()
            .context("run tradewind deploy")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tradewind deploy: {complaint}");
        let apps = self
            .ask(Method::GET, &format!("/v2/apps?name={app}"), None)
            .await?;
        let app_id = apps["items"][0]["id"]
            .as_str()
            .context("the app is there")?;
        let fns = format!("/v2/fns?app_id={app_id}&name={name}");
        let fns = self.ask(Method::GET, &fns, None).await?;
        let id = fns["items"][0]["id"]
            .as_str()
            .context("the function is there")?;
        Ok(Made {
            app: app.to_owned(),
            name: name.to_owned(),
            id: id.to_owned(),
        })
    }

    pub async fn update(&self, function: &Made, fields: Value) -> anyhow::Result<()> {
        let path = format!("/v2/fns/{}", function.id);
        self.ask(Method::PUT, &path, Some(fields)).await?;
        Ok(())
    }

    pub async fn delete(&self, function: &Made) -> anyhow::Result<()> {
        let path = format!("/v2/fns/{}", function.id);
        self.ask(Method::DELETE, &path, None).await?;
        Ok(())
    }

    /// Asks the global node, and returns its JSON.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.api);
        let mut request = self.http.request(method.clone(), url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.context("ask a global node")?;
        let status = response.status();
        let text = response.text().await.context("read its answer")?;
        ensure!(status.is_success(), "{method} {path}: {status} {text}");
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).context("understand its answer")
    }
}
