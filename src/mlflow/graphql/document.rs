//! Reduces a GraphQL document to the plain fields of one operation, and writes such fields as text.

use std::collections::HashMap;
use std::fmt::Write as _;

use graphql_parser::query::{
    Definition, Directive, FragmentDefinition, OperationDefinition, Selection, SelectionSet, Value, VariableDefinition,
};

use super::{GraphqlError, Json, Kind};

/// MLflow's default (`mlflow.server.graphql.graphql_no_batching`).
const MAX_ROOT_FIELDS: usize = 10;
const MAX_ALIASES: usize = 10;
const MAX_DEPTH: usize = 10;
const MAX_SELECTIONS: usize = 1000;
/// More arguments than any field has.
const MAX_ARGUMENTS: usize = 10;
const MAX_VARIABLES: usize = 100;
/// Total size of all values after substitution, in bytes; each occurrence counts. Equals the size limit of a request body.
const MAX_VALUES: usize = 1024 * 1024;

/// Total size of a request's variables when parsed, in bytes.
const MAX_GIVEN: usize = 256 * 1024;

/// Prefix of the names that the proxy adds to a query.
const PRIVATE: &str = "mlflowAuthProxy";

/// The selected operation.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) keyword: &'static str,
    pub(super) fields: Vec<Selected>,
}

/// One field with its selected children. It has no conditions or variables.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    pub(super) key: String,
    pub(super) name: String,
    arguments: Vec<(String, Literal)>,
    pub(super) children: Vec<Self>,
    /// True if the proxy added this field, and the client did not request it.
    pub(super) private: bool,
}

/// A value without variables.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Boolean(bool),
    Number(i64),
    String(String),
    Word(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

/// Parses a document and selects the operation.
pub(super) fn read(
    text: &str,
    name: Option<&str>,
    variables: &[(std::borrow::Cow<'_, str>, Json<'_>)],
) -> Result<Operation, GraphqlError> {
    // Block strings are not needed here, and parsers interpret them differently.
    if text.contains("\"\"\"") {
        return Err(GraphqlError::Syntax("block strings are not supported"));
    }
    let document = graphql_parser::parse_query::<&str>(text).map_err(|_| GraphqlError::Syntax("it does not parse"))?;
    let mut fragments = HashMap::new();
    let mut chosen = Vec::new();
    for definition in &document.definitions {
        match definition {
            Definition::Fragment(fragment) => {
                if fragments.insert(fragment.name, fragment).is_some() {
                    return Err(GraphqlError::Fragment(fragment.name.to_owned()));
                }
            }
            Definition::Operation(operation) => {
                let parts = Parts::of(operation)?;
                if name.is_none() || parts.name == name {
                    chosen.push(parts);
                }
            }
        }
    }
    let [operation] = chosen.as_slice() else { return Err(GraphqlError::Operation) };
    for directive in operation.directives {
        // The directive with which the web UI marks its queries.
        if directive.name != "component" {
            return Err(GraphqlError::Directive(directive.name.to_owned()));
        }
    }
    let values = Values::of(operation.variables, variables)?;
    let mut reader = Reader { fragments, values, open: Vec::new(), left: MAX_SELECTIONS };
    let mut fields = Vec::new();
    reader.collect(operation.selections, &mut fields, 1)?;
    if fields.len() > MAX_ROOT_FIELDS {
        return Err(GraphqlError::TooMany("fields at its root"));
    }
    check_aliases(&fields)?;
    if fields.is_empty() {
        return Err(GraphqlError::Operation);
    }
    Ok(Operation { keyword: operation.keyword, fields })
}

struct Parts<'d, 't> {
    keyword: &'static str,
    name: Option<&'t str>,
    variables: &'d [VariableDefinition<'t, &'t str>],
    directives: &'d [Directive<'t, &'t str>],
    selections: &'d SelectionSet<'t, &'t str>,
}

impl<'d, 't> Parts<'d, 't> {
    fn of(operation: &'d OperationDefinition<'t, &'t str>) -> Result<Self, GraphqlError> {
        Ok(match operation {
            OperationDefinition::SelectionSet(selections) => {
                Self { keyword: "query", name: None, variables: &[], directives: &[], selections }
            }
            OperationDefinition::Query(query) => Self {
                keyword: "query",
                name: query.name,
                variables: &query.variable_definitions,
                directives: &query.directives,
                selections: &query.selection_set,
            },
            OperationDefinition::Mutation(mutation) => Self {
                keyword: "mutation",
                name: mutation.name,
                variables: &mutation.variable_definitions,
                directives: &mutation.directives,
                selections: &mutation.selection_set,
            },
            OperationDefinition::Subscription(_) => return Err(GraphqlError::Operation),
        })
    }
}

/// The values of the variables, and the remaining size for substitutions.
struct Values<'t> {
    /// `None`: a variable with neither a value nor a default.
    variables: HashMap<&'t str, Option<Literal>>,
    left: usize,
}

impl<'t> Values<'t> {
    fn of(
        definitions: &[VariableDefinition<'t, &'t str>],
        given: &[(std::borrow::Cow<'_, str>, Json<'_>)],
    ) -> Result<Self, GraphqlError> {
        if definitions.len() > MAX_VARIABLES {
            return Err(GraphqlError::TooMany("variables"));
        }
        let mut variables = HashMap::new();
        let mut room = MAX_GIVEN;
        for definition in definitions {
            let name = definition.name;
            let required = matches!(definition.var_type, graphql_parser::query::Type::NonNullType(_));
            let value = match (given.iter().find(|(key, _)| key == name), &definition.default_value) {
                (Some((_, value)), _) => Some(Literal::of_json(value, name, &mut room)?),
                (None, Some(default)) => Some(Self::none().read(default)?.unwrap_or(Literal::Null)),
                (None, None) => None,
            };
            if required && value.as_ref().is_none_or(|value| *value == Literal::Null) {
                return Err(GraphqlError::Variable(name.to_owned()));
            }
            if variables.insert(name, value).is_some() {
                return Err(GraphqlError::Variable(name.to_owned()));
            }
        }
        Ok(Self { variables, left: MAX_VALUES })
    }

    /// Returns an empty set of values, because a default value must not refer to variables.
    fn none() -> Self {
        Self { variables: HashMap::new(), left: MAX_VALUES }
    }

    /// Substitutes the variables of a value. Returns `None` for a variable without a value: the element that it stands for is
    /// absent.
    fn read(&mut self, value: &Value<'t, &'t str>) -> Result<Option<Literal>, GraphqlError> {
        let read = match value {
            Value::Variable(name) => {
                let found = self.variables.get(name).ok_or_else(|| GraphqlError::Variable((*name).to_owned()))?;
                let size = found.as_ref().map_or(size_of::<Literal>(), Literal::size);
                self.left = self.left.checked_sub(size).ok_or(GraphqlError::TooMany("values"))?;
                return Ok(found.clone());
            }
            Value::Int(number) => {
                Literal::Number(number.as_i64().ok_or(GraphqlError::Syntax("a number is too large"))?)
            }
            Value::Float(_) => return Err(GraphqlError::Syntax("fractions are not used")),
            Value::String(text) => Literal::String(text.clone()),
            Value::Boolean(value) => Literal::Boolean(*value),
            Value::Null => Literal::Null,
            Value::Enum(word) => Literal::Word((*word).to_owned()),
            Value::List(items) => {
                let item = |item| Ok(self.read(item)?.unwrap_or(Literal::Null));
                Literal::List(items.iter().map(item).collect::<Result<_, GraphqlError>>()?)
            }
            Value::Object(fields) => {
                let mut read = Vec::with_capacity(fields.len());
                for (name, value) in fields {
                    read.extend(self.read(value)?.map(|value| ((*name).to_owned(), value)));
                }
                Literal::Object(read)
            }
        };
        self.left = self.left.checked_sub(read.own_size()).ok_or(GraphqlError::TooMany("values"))?;
        Ok(Some(read))
    }
}

struct Reader<'d, 't> {
    fragments: HashMap<&'t str, &'d FragmentDefinition<'t, &'t str>>,
    values: Values<'t>,
    /// The fragments that are being inlined, to detect recursion.
    open: Vec<&'t str>,
    left: usize,
}

impl<'d, 't> Reader<'d, 't> {
    /// Adds the selection to `fields` by GraphQL's field collection: one entry for each key, in order of appearance.
    fn collect(
        &mut self,
        set: &'d SelectionSet<'t, &'t str>,
        fields: &mut Vec<Selected>,
        depth: usize,
    ) -> Result<(), GraphqlError> {
        if depth > MAX_DEPTH {
            return Err(GraphqlError::TooMany("levels"));
        }
        for selection in &set.items {
            self.left = self.left.checked_sub(1).ok_or(GraphqlError::TooMany("selections"))?;
            match selection {
                Selection::Field(field) if self.applies(&field.directives)? => {
                    let key = field.alias.unwrap_or(field.name);
                    if key.starts_with(PRIVATE) {
                        return Err(GraphqlError::UnknownField(key.to_owned()));
                    }
                    let arguments = self.arguments(&field.arguments)?;
                    let at = fields.iter().position(|other| other.key == key).unwrap_or(fields.len());
                    if at == fields.len() {
                        fields.push(Selected::new(key, field.name, arguments.clone()));
                    }
                    let Some(selected) = fields.get_mut(at) else { continue };
                    if selected.name != field.name || selected.arguments != arguments {
                        return Err(GraphqlError::Conflict(key.to_owned()));
                    }
                    if !field.selection_set.items.is_empty() {
                        self.collect(&field.selection_set, &mut selected.children, depth + 1)?;
                        // All children were skipped, but GraphQL requires a selection here.
                        if selected.children.is_empty() {
                            selected.children.push(Selected::private("__typename"));
                        }
                    }
                }
                Selection::InlineFragment(fragment) if self.applies(&fragment.directives)? => {
                    // Every type here is an object type, so a fragment on another type is invalid and MLflow would not execute
                    // it.
                    self.collect(&fragment.selection_set, fields, depth)?;
                }
                Selection::FragmentSpread(spread) if self.applies(&spread.directives)? => {
                    let name = spread.fragment_name;
                    let unknown = || GraphqlError::Fragment(name.to_owned());
                    let fragment = *self.fragments.get(name).ok_or_else(unknown)?;
                    if self.open.contains(&name) {
                        return Err(unknown());
                    }
                    if let Some(directive) = fragment.directives.first() {
                        return Err(GraphqlError::Directive(directive.name.to_owned()));
                    }
                    self.open.push(name);
                    self.collect(&fragment.selection_set, fields, depth)?;
                    self.open.pop();
                }
                Selection::Field(_) | Selection::InlineFragment(_) | Selection::FragmentSpread(_) => {}
            }
        }
        Ok(())
    }

    fn applies(&mut self, directives: &[Directive<'t, &'t str>]) -> Result<bool, GraphqlError> {
        let mut applies = true;
        for directive in directives {
            let unclear = || GraphqlError::Directive(directive.name.to_owned());
            let [("if", value)] = directive.arguments.as_slice() else { return Err(unclear()) };
            let Some(Literal::Boolean(condition)) = self.values.read(value)? else {
                return Err(unclear());
            };
            match directive.name {
                "include" => applies &= condition,
                "skip" => applies &= !condition,
                _ => return Err(unclear()),
            }
        }
        Ok(applies)
    }

    fn arguments(
        &mut self,
        arguments: &[(&'t str, Value<'t, &'t str>)],
    ) -> Result<Vec<(String, Literal)>, GraphqlError> {
        if arguments.len() > MAX_ARGUMENTS {
            return Err(GraphqlError::TooMany("arguments"));
        }
        let mut read: Vec<(String, Literal)> = Vec::with_capacity(arguments.len());
        for (name, value) in arguments {
            if read.iter().any(|(other, _)| other == name) {
                return Err(GraphqlError::Argument((*name).to_owned()));
            }
            read.extend(self.values.read(value)?.map(|value| ((*name).to_owned(), value)));
        }
        Ok(read)
    }
}

fn check_aliases(fields: &[Selected]) -> Result<(), GraphqlError> {
    if fields.iter().filter(|field| field.key != field.name).count() > MAX_ALIASES {
        return Err(GraphqlError::TooMany("aliases"));
    }
    fields.iter().try_for_each(|field| check_aliases(&field.children))
}

impl Selected {
    fn new(key: &str, name: &str, arguments: Vec<(String, Literal)>) -> Self {
        Self { key: key.to_owned(), name: name.to_owned(), arguments, children: Vec::new(), private: false }
    }

    fn private(name: &str) -> Self {
        let mut selected = Self::new(&format!("{PRIVATE}_{}", name.trim_start_matches('_')), name, Vec::new());
        selected.private = true;
        selected
    }

    /// Converts the single argument `input` to its canonical form and returns its fields.
    pub(super) fn coerce_input(&mut self, kinds: &[(&str, Kind)]) -> Result<Vec<(String, Literal)>, GraphqlError> {
        let given = match self.arguments.as_slice() {
            [] => Vec::new(),
            [(name, Literal::Object(fields))] if name == "input" => fields.clone(),
            [(name, Literal::Null)] if name == "input" => Vec::new(),
            [(name, _), ..] => return Err(GraphqlError::Argument(name.clone())),
        };
        let mut fields = Vec::with_capacity(given.len());
        for (name, value) in given {
            let wrong = || GraphqlError::Argument(name.clone());
            let kind = kinds.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind).ok_or_else(wrong)?;
            if value != Literal::Null {
                let value = value.coerce(kind).ok_or_else(wrong)?;
                fields.push((name, value));
            }
        }
        self.arguments = vec![("input".to_owned(), Literal::Object(fields.clone()))];
        Ok(fields)
    }

    pub(super) fn set_input(&mut self, field: &str, value: Literal) {
        if let Some((_, Literal::Object(fields))) = self.arguments.first_mut()
            && let Some((_, old)) = fields.iter_mut().find(|(name, _)| name == field)
        {
            *old = value;
        }
    }

    /// Checks the fields below a root field: only known fields have children, and none has arguments.
    pub(super) fn check_below(&self) -> Result<(), GraphqlError> {
        for child in &self.children {
            if let Some((name, _)) = child.arguments.first() {
                return Err(GraphqlError::Argument(name.clone()));
            }
            if !child.children.is_empty() && !BRANCHES.contains(&child.name.as_str()) {
                return Err(GraphqlError::UnknownField(child.name.clone()));
            }
            child.check_below()?;
        }
        Ok(())
    }

    /// Adds the model's name to every selected model version, so that the response can be filtered.
    pub(super) fn show_names(&mut self) {
        for child in &mut self.children {
            child.show_names();
        }
        if self.name == "modelVersions" && self.children.iter().all(|child| child.name != "name") {
            let mut name = Self::private("name");
            if self.children.iter().all(|child| child.key != "name") {
                // MLflow limits the number of aliases, so none is used if the plain key is free.
                "name".clone_into(&mut name.key);
            }
            self.children.push(name);
        }
    }

    /// Returns true if the response below this field can require filtering.
    pub(super) fn is_edited(&self) -> bool {
        self.private || self.name == "modelVersions" || self.children.iter().any(Self::is_edited)
    }

    pub(super) fn write(&self, out: &mut String) {
        if self.key != self.name {
            out.push_str(&self.key);
            out.push(':');
        }
        out.push_str(&self.name);
        if !self.arguments.is_empty() {
            out.push('(');
            write_named(&self.arguments, out);
            out.push(')');
        }
        if !self.children.is_empty() {
            out.push('{');
            for child in &self.children {
                child.write(out);
            }
            out.push('}');
        }
        out.push(' ');
    }
}

/// Fields below the root that have children. All of them belong to the resource of the root field, except `modelVersions`.
const BRANCHES: [&str; 21] = [
    "apiError",
    "data",
    "dataset",
    "datasetInputs",
    "datasetSummaries",
    "deploymentJobState",
    "experiment",
    "files",
    "info",
    "inputs",
    "metrics",
    "modelInputs",
    "modelMetrics",
    "modelOutputs",
    "modelParams",
    "modelVersions",
    "outputs",
    "params",
    "run",
    "runs",
    "tags",
];

impl Literal {
    /// Returns the approximate size in bytes.
    fn size(&self) -> usize {
        let inner = match self {
            Self::Null | Self::Boolean(_) | Self::Number(_) | Self::String(_) | Self::Word(_) => 0,
            Self::List(items) => items.iter().map(Self::size).sum(),
            Self::Object(fields) => fields.iter().map(|(_, value)| value.size()).sum(),
        };
        self.own_size() + inner
    }

    /// Returns the approximate size in bytes without nested values.
    fn own_size(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Null | Self::Boolean(_) | Self::Number(_) | Self::List(_) => 0,
                Self::String(text) | Self::Word(text) => text.len(),
                Self::Object(fields) => fields.iter().map(|(name, _)| size_of::<String>() + name.len()).sum(),
            }
    }

    /// Converts a JSON value. `room`: the remaining size for all values together.
    fn of_json(value: &Json<'_>, variable: &str, room: &mut usize) -> Result<Self, GraphqlError> {
        let read = match value {
            Json::Scalar("null") => Self::Null,
            Json::Scalar("true") => Self::Boolean(true),
            Json::Scalar("false") => Self::Boolean(false),
            Json::Scalar(number) => {
                Self::Number(number.parse().map_err(|_| GraphqlError::Argument(variable.to_owned()))?)
            }
            Json::String(text) => Self::String(text.clone().into_owned()),
            Json::Array(items) => {
                Self::List(items.iter().map(|item| Self::of_json(&item?, variable, room)).collect::<Result<_, _>>()?)
            }
            Json::Object(fields) => {
                let field = |(name, value): &(std::borrow::Cow<'_, str>, Json<'_>)| {
                    is_name(name).then_some(()).ok_or_else(|| GraphqlError::Argument(variable.to_owned()))?;
                    Ok((name.clone().into_owned(), Self::of_json(value, variable, room)?))
                };
                Self::Object(fields.iter().map(field).collect::<Result<_, GraphqlError>>()?)
            }
            closed @ Json::Closed(_) => {
                let mut opened = closed.clone();
                opened.open_closed()?;
                return Self::of_json(&opened, variable, room);
            }
        };
        *room = room.checked_sub(read.own_size()).ok_or(GraphqlError::TooMany("values"))?;
        Ok(read)
    }

    /// Returns the value in the syntax of this kind, or `None` if it does not fit.
    fn coerce(self, kind: Kind) -> Option<Self> {
        match (kind, self) {
            (Kind::Text, text @ Self::String(_)) => Some(text),
            (Kind::Texts, text @ Self::String(_)) => Some(Self::List(vec![text])),
            (Kind::Texts, Self::List(items)) if items.iter().all(|item| matches!(item, Self::String(_))) => {
                Some(Self::List(items))
            }
            (Kind::Number, number @ Self::Number(_)) => Some(number),
            (Kind::Number, Self::String(digits)) => digits.parse().ok().map(Self::Number),
            (Kind::Word, Self::Word(word) | Self::String(word)) if is_name(&word) => Some(Self::Word(word)),
            (Kind::Text | Kind::Texts | Kind::Number | Kind::Word, _) => None,
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => {
                // Writing to memory cannot fail.
                let _ = write!(out, "{number}");
            }
            Self::String(text) => write_string(text, out),
            Self::Word(word) => out.push_str(word),
            Self::List(items) => {
                out.push('[');
                for item in items {
                    item.write(out);
                    out.push(' ');
                }
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                write_named(fields, out);
                out.push('}');
            }
        }
    }
}

fn write_named(fields: &[(String, Literal)], out: &mut String) {
    for (name, value) in fields {
        out.push_str(name);
        out.push(':');
        value.write(out);
        out.push(' ');
    }
}

/// Writes a string literal. Only control characters, quotes and backslashes are escaped, because not every parser supports
/// escaped surrogate pairs.
fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
}

fn is_name(text: &str) -> bool {
    let mut letters = text.bytes();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
}
