//! What a request wants, as authorisation, faults and counts see it.

use http::Method;

use crate::resource::Target;

/// The verbs that RBAC rules name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }

    pub(crate) fn of(method: &Method, target: &Target, watch: bool) -> Option<Self> {
        match (method, &target.name) {
            (&Method::GET, _) if watch => Some(Self::Watch),
            (&Method::GET, Some(_)) => Some(Self::Get),
            (&Method::GET, None) => Some(Self::List),
            (&Method::POST, _) => Some(Self::Create),
            (&Method::PUT, Some(_)) => Some(Self::Update),
            (&Method::PATCH, Some(_)) => Some(Self::Patch),
            (&Method::DELETE, Some(_)) => Some(Self::Delete),
            (&Method::DELETE, None) => Some(Self::DeleteCollection),
            _ => None,
        }
    }
}

/// Who asks for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The bearer token, which is all the identity that a client has here.
    pub user: String,
    pub verb: Verb,
    /// `pods`, `pods/resize`, `functions.tradewind.dev/status`.
    pub resource: String,
    /// Empty for lists, watches of many and creations.
    pub name: String,
}

/// Which calls a fault, a count or a cut is about; every call until narrowed.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    user: Option<String>,
    verbs: Option<Vec<Verb>>,
    resource: Option<String>,
    name: Option<String>,
}

impl Calls {
    pub fn all() -> Self {
        Self::default()
    }

    pub fn writes() -> Self {
        Self::all().verbs(&[
            Verb::Create,
            Verb::Update,
            Verb::Patch,
            Verb::Delete,
            Verb::DeleteCollection,
        ])
    }

    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    #[must_use]
    pub fn verbs(mut self, verbs: &[Verb]) -> Self {
        self.verbs = Some(verbs.to_vec());
        self
    }

    /// As [`Call::resource`]; a resource alone does not mean its subresources.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    pub fn include(&self, call: &Call) -> bool {
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        };
        is(&self.user, &call.user)
            && is(&self.resource, &call.resource)
            && is(&self.name, &call.name)
            && self
                .verbs
                .as_ref()
                .is_none_or(|verbs| verbs.contains(&call.verb))
    }
}
