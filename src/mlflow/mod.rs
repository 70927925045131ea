//! A model of MLflow: its routes, the fields that identify resources, and its interpretation of paths and JSON.
//!
//! Pure: no I/O. Facts were verified on MLflow 3.17.2; differences in other versions are noted where they matter.

#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod address;
pub(crate) mod answers;
mod artifact;
mod authorship;
mod fetched;
mod graphql;
mod json;
mod judge;
pub(crate) mod lists;
mod locate;
pub(crate) mod lookups;
mod mutation;
mod otlp;
mod path_form;
mod provider;
mod question;
mod requirement;
mod rules;
mod schema;
mod table;

pub use crate::authz::{scorer_key, skill_key};
pub use address::{AddressError, ProviderHost, ProviderHosts};
pub use artifact::{ArtifactPath, ModelFiles, artifact_tier};
pub use authorship::{Author, sign};
pub use fetched::fetches;
pub use graphql::{Ask, GraphqlError, Query as GraphqlQuery, RootField, Verdict};
pub use json::{Json, JsonError, Keep, List, MAX_DEPTH, MAX_MEMBERS, canonical};
pub use judge::Judge;
pub use locate::{Input, LocateError, Located, Narrowed, locate, narrow, text_field};
pub use mutation::FollowUp;
pub(crate) use mutation::{created, created_jobs, is_first_version, makes_skill};
pub use otlp::{OtlpError, Spans, read as read_spans, unpacked_size};
pub use path_form::PathForm;
pub use provider::{Model as ProviderModel, PROMPT_MODEL_TAG, StoredSecret, privilege_of, prompt_model};
pub use question::{Question, QuestionError};
pub use requirement::{Child, Lookup, OwnerKind, Target};
pub use rules::{
    Connection, Demand, PromptAt, QueuePart, SourceUri, demands, is_prompt_model_tag, keep_assessment_ids,
    names_a_version, names_assessments, new_skills, optimized_prompt, pin_prompt, started_trace,
};
pub use schema::{MessageId, RequestFields, Schema, SchemaError, Unknown};
pub use table::{
    BodyMode, Feature, Field, Filter, Found, Narrow, Need, Operation, Rule, Source, Step, Table, TableError, Then,
    Thing,
};

#[cfg(test)]
mod tests;

/// The tag that marks a registered model as a prompt (`mlflow.prompt.constants.IS_PROMPT_TAG_KEY`).
pub const PROMPT_TAG: &str = "mlflow.prompt.is_prompt";
