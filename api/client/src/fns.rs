//! Apps, functions and triggers (Fn contract 2 to 4).

use api_types::{AppId, FnId, TriggerId};
use api_wire::page::{PER_PAGE_MAX, Page};
use api_wire::{AppBody, FnBody, TriggerBody};
use http::Method;
use serde::de::DeserializeOwned;

use crate::attempt::Ask;
use crate::{Client, Error, Written};

impl Client {
    /// # Errors
    /// 409 if the name is taken; see [`Error`] for the rest, here and below.
    pub async fn create_app(&self, app: &AppBody) -> Result<Written<AppBody>, Error> {
        self.write(Ask::write(Method::POST, &["v2", "apps"]).json(app))
            .await
    }

    /// Merges: members left out stay as they are (Fn contract 2.3).
    pub async fn update_app(&self, id: &AppId, app: &AppBody) -> Result<Written<AppBody>, Error> {
        self.write(Ask::write(Method::PUT, &["v2", "apps", id.as_str()]).json(app))
            .await
    }

    /// Deletes the app with its functions and triggers.
    pub async fn delete_app(&self, id: &AppId) -> Result<Written<()>, Error> {
        self.write_empty(Ask::write(Method::DELETE, &["v2", "apps", id.as_str()]))
            .await
    }

    pub async fn app(&self, id: &AppId) -> Result<AppBody, Error> {
        self.read(Ask::get(&["v2", "apps", id.as_str()])).await
    }

    pub async fn app_named(&self, name: &str) -> Result<Option<AppBody>, Error> {
        let page: Page<AppBody> = self
            .read(Ask::get(&["v2", "apps"]).query("name", name))
            .await?;
        let is_it = |app: &AppBody| app.name.as_deref() == Some(name);
        Ok(page.items.into_iter().find(is_it))
    }

    /// All apps, by name.
    pub async fn apps(&self) -> Result<Vec<AppBody>, Error> {
        self.pages("apps", &[]).await
    }

    pub async fn create_fn(&self, function: &FnBody) -> Result<Written<FnBody>, Error> {
        self.write(Ask::write(Method::POST, &["v2", "fns"]).json(function))
            .await
    }

    pub async fn update_fn(&self, id: &FnId, function: &FnBody) -> Result<Written<FnBody>, Error> {
        self.write(Ask::write(Method::PUT, &["v2", "fns", id.as_str()]).json(function))
            .await
    }

    pub async fn delete_fn(&self, id: &FnId) -> Result<Written<()>, Error> {
        self.write_empty(Ask::write(Method::DELETE, &["v2", "fns", id.as_str()]))
            .await
    }

    pub async fn function(&self, id: &FnId) -> Result<FnBody, Error> {
        self.read(Ask::get(&["v2", "fns", id.as_str()])).await
    }

    pub async fn fn_named(&self, app: &AppId, name: &str) -> Result<Option<FnBody>, Error> {
        let ask = Ask::get(&["v2", "fns"])
            .query("app_id", app)
            .query("name", name);
        let page: Page<FnBody> = self.read(ask).await?;
        let is_it = |function: &FnBody| function.name.as_deref() == Some(name);
        Ok(page.items.into_iter().find(is_it))
    }

    /// All functions of an app, by name.
    pub async fn fns(&self, app: &AppId) -> Result<Vec<FnBody>, Error> {
        self.pages("fns", &[("app_id", app.to_string())]).await
    }

    pub async fn create_trigger(
        &self,
        trigger: &TriggerBody,
    ) -> Result<Written<TriggerBody>, Error> {
        self.write(Ask::write(Method::POST, &["v2", "triggers"]).json(trigger))
            .await
    }

    pub async fn update_trigger(
        &self,
        id: &TriggerId,
        trigger: &TriggerBody,
    ) -> Result<Written<TriggerBody>, Error> {
        self.write(Ask::write(Method::PUT, &["v2", "triggers", id.as_str()]).json(trigger))
            .await
    }

    pub async fn delete_trigger(&self, id: &TriggerId) -> Result<Written<()>, Error> {
        self.write_empty(Ask::write(Method::DELETE, &["v2", "triggers", id.as_str()]))
            .await
    }

    pub async fn trigger(&self, id: &TriggerId) -> Result<TriggerBody, Error> {
        self.read(Ask::get(&["v2", "triggers", id.as_str()])).await
    }

    pub async fn trigger_named(
        &self,
        app: &AppId,
        function: &FnId,
        name: &str,
    ) -> Result<Option<TriggerBody>, Error> {
        let ask = Ask::get(&["v2", "triggers"])
            .query("app_id", app)
            .query("fn_id", function)
            .query("name", name);
        let page: Page<TriggerBody> = self.read(ask).await?;
        let is_it = |trigger: &TriggerBody| trigger.name.as_deref() == Some(name);
        Ok(page.items.into_iter().find(is_it))
    }

    /// All triggers of an app, or of one of its functions, by name.
    pub async fn triggers(
        &self,
        app: &AppId,
        function: Option<&FnId>,
    ) -> Result<Vec<TriggerBody>, Error> {
        let mut query = vec![("app_id", app.to_string())];
        query.extend(function.map(|id| ("fn_id", id.to_string())));
        self.pages("triggers", &query).await
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        kind: &str,
        query: &[(&str, String)],
    ) -> Result<Vec<T>, Error> {
        let path = ["v2", kind];
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut ask = Ask::get(&path).query("per_page", &PER_PAGE_MAX);
            ask.query.extend(query.iter().cloned());
            if let Some(cursor) = &cursor {
                ask = ask.query("cursor", cursor);
            }
            let page: Page<T> = self.read(ask).await?;
            items.extend(page.items);
            match page.next_cursor.filter(|next| !next.is_empty()) {
                None => return Ok(items),
                // A cursor that does not move would go round for ever.
                Some(next) if cursor.as_ref() == Some(&next) => return Ok(items),
                Some(next) => cursor = Some(next),
            }
        }
        Err(Error::TooLarge {
            what: format!("the list of {kind}"),
            bytes_max: (PAGES_MAX * PER_PAGE_MAX) as u64,
        })
    }
}

/// 100,000 objects: more than the plane is sized for.
const PAGES_MAX: usize = 1_000;
