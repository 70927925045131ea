//! The words of `routes.toml`: needs, resources, fields and what follows.

use std::str::FromStr;

use super::{Feature, Field, Need, Source, Step, Then, Thing};
use crate::authz::{Permission, UnknownKind};

impl FromStr for Need {
    type Err = String;

    fn from_str(sentence: &str) -> Result<Self, String> {
        let words: Vec<&str> = sentence.split_whitespace().collect();
        match words[..] {
            ["PUBLIC"] => Ok(Self::Public),
            ["SIGNED-IN"] => Ok(Self::SignedIn),
            ["ADMIN"] => Ok(Self::Admin),
            ["BLOCKED", feature] => Ok(Self::Blocked(feature.parse()?)),
            ["CREATE", kind] => Ok(Self::Create(kind.parse().map_err(|error| format!("{error}"))?)),
            ["NOT-DENIED", tier] => Ok(Self::NotDenied(tier.parse().map_err(|error| format!("{error}"))?)),
            ["TIER", level, tier] => {
                let permission = level.parse().map_err(|error| format!("{error}"))?;
                Ok(Self::Tier(permission, tier.parse().map_err(|error| format!("{error}"))?))
            }
            [level, thing, field] => {
                let permission: Permission = level.parse().map_err(|error| format!("{error}"))?;
                if permission.refuses() {
                    return Err(format!("`{level}` cannot be required"));
                }
                Ok(Self::Level { permission, thing: thing.parse()?, field: field.parse()? })
            }
            _ => Err(format!("`{sentence}` is not a need")),
        }
    }
}

impl FromStr for Feature {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let all = [Self::Assistant, Self::JobSubmission, Self::Demo, Self::GatewayProxy, Self::UpstreamMetrics];
        all.into_iter().find(|feature| feature.as_str() == word).ok_or_else(|| format!("`{word}` is not a feature"))
    }
}

impl FromStr for Then {
    type Err = String;

    fn from_str(sentence: &str) -> Result<Self, String> {
        let kind = |word: &str| word.parse().map_err(|error: UnknownKind| error.to_string());
        match sentence.split_once(' ') {
            Some(("own", "review_queue")) => Ok(Self::OwnQueue),
            Some(("own", words)) => match words.strip_prefix("new ") {
                Some(word) => Ok(Self::OwnNew(kind(word)?)),
                None => Ok(Self::Own(kind(words)?)),
            },
            Some(("drop", word)) => Ok(Self::Drop(kind(word)?)),
            Some(("rename", "registered_model")) => Ok(Self::RenameModel),
            Some(("rename", "experiment")) => Ok(Self::RenameExperiment),
            Some(("forget", "traces")) => Ok(Self::ForgetTraces),
            Some(("learn", "run")) => Ok(Self::LearnRun),
            Some(("learn", "trace")) => Ok(Self::LearnTrace),
            Some(_) | None => Err(format!("`{sentence}` is not an effect")),
        }
    }
}

impl FromStr for Thing {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Ok(match word {
            "experiment" => Self::Experiment,
            "experiment-name" => Self::ExperimentName,
            "traces-of" => Self::TracesOf,
            "assessments-of" => Self::AssessmentsOf,
            "run" => Self::Run,
            "logged-model" => Self::LoggedModel,
            "trace" => Self::Trace,
            "assessment-of" => Self::AssessmentOf,
            "dataset" => Self::Dataset,
            "issue" => Self::Issue,
            "label-schema" => Self::LabelSchema,
            "review-queue" => Self::ReviewQueue,
            "review-queue-name" => Self::ReviewQueueName,
            "prompt-job" => Self::PromptJob,
            "online-scorer" => Self::OnlineScorer,
            "model" => Self::Model,
            "version-of" => Self::VersionOf,
            "scorer" => Self::Scorer,
            "scorer-version" => Self::ScorerVersion,
            "secret" => Self::Secret,
            "endpoint" => Self::Endpoint,
            "endpoint-name" => Self::EndpointName,
            "model-definition" => Self::ModelDefinition,
            "guardrail" => Self::Guardrail,
            "mcp-server" => Self::McpServer,
            "mcp-server-version" => Self::McpServerVersion,
            "new-mcp-server-version" => Self::NewMcpServerVersion,
            "skill" => Self::Skill,
            "new-skill" => Self::NewSkill,
            "job" => Self::Job,
            "artifact" => Self::Artifact,
            _ => return Err(format!("`{word}` is not an object")),
        })
    }
}

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, optional) = text.strip_suffix('?').map_or((text, false), |rest| (rest, true));
        let (source, rest) =
            rest.split_once('.').ok_or_else(|| format!("`{text}` does not name query, body, path or header"))?;
        let source = match source {
            "query" => Source::Query,
            "body" => Source::Body,
            "path" => Source::Path,
            "header" => Source::Header,
            _ => return Err(format!("`{source}` is not query, body, path or header")),
        };
        let (rest, with) = match rest.split_once('+') {
            Some((rest, with)) => (rest, Some(with.to_owned())),
            None => (rest, None),
        };
        let steps: Vec<Step> = rest.split('.').map(step).collect();
        let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b"_-".contains(&b));
        let names = steps.iter().flat_map(|step| &step.names).chain(&with);
        if let Some(odd) = names.into_iter().find(|name| !plain(name)) {
            return Err(format!("`{odd}` is not a field name"));
        }
        if steps.len() > 1 && source != Source::Body {
            return Err(format!("`{text}`: only the body has fields within fields"));
        }
        Ok(Self { source, steps, with, optional })
    }
}

fn step(text: &str) -> Step {
    let (text, each) = text.strip_suffix("[]").map_or((text, false), |text| (text, true));
    Step { names: text.split('|').map(str::to_owned).collect(), each }
}
