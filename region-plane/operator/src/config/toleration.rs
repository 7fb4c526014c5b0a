//! Taints that functions' pods put up with, as Kubernetes has them and checked as its API server would:
//! what it refused then would be every pod.

use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    key: Option<String>,
    #[serde(default)]
    operator: Operator,
    value: Option<String>,
    effect: Option<Effect>,
    toleration_seconds: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Operator {
    #[default]
    Equal,
    Exists,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl Toleration {
    pub fn problem(&self) -> Option<&'static str> {
        let has = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let exists = self.operator == Operator::Exists;
        if !has(&self.key) && !exists {
            Some("one without a key has the operator Exists")
        } else if has(&self.value) && exists {
            Some("one with the operator Exists has no value")
        } else if self.toleration_seconds.is_some() && self.effect != Some(Effect::NoExecute) {
            Some("toleration_seconds goes with the effect NoExecute")
        } else {
            None
        }
    }
}

impl From<Toleration> for core::Toleration {
    fn from(toleration: Toleration) -> Self {
        let operator = match toleration.operator {
            Operator::Equal => "Equal",
            Operator::Exists => "Exists",
        };
        let effect = toleration.effect.map(|effect| match effect {
            Effect::NoSchedule => "NoSchedule",
            Effect::PreferNoSchedule => "PreferNoSchedule",
            Effect::NoExecute => "NoExecute",
        });
        Self {
            key: toleration.key,
            operator: Some(operator.to_owned()),
            value: toleration.value,
            effect: effect.map(str::to_owned),
            toleration_seconds: toleration.toleration_seconds,
        }
    }
}
