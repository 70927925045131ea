//! The decision: grants and needs in, a permit or a reason out.
//!
//! Allow is one line and needs everything; deny is every other path.

use std::fmt;

use super::{Identity, Limits, Permission, Resource, ResourceKind};

/// The rules that hold for everyone. One snapshot per request.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// What a signed-in person may do where no grant speaks; also the floor of every positive grant.
    pub default_permission: Permission,
}

impl Policy {
    /// What grants and default come to: `granted` is what the grants say, `None` when none speaks.
    #[must_use]
    pub fn level(self, granted: Option<Permission>) -> Permission {
        match granted {
            None => self.default_permission,
            Some(level) if level.refuses() => level,
            Some(level) => level.max(self.default_permission),
        }
    }
}

/// One thing that has to be true before a request may be forwarded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Requirement {
    /// Whoever proved who they are.
    SignedIn,
    /// An administrator, with a credential that is not read-only when `change` is set.
    Admin { change: bool },
    /// Somebody who may make new things of this kind.
    Create(ResourceKind),
    /// An administrator, because of one thing in the request; the words complete "Only an administrator may ...".
    Privileged(&'static str),
    /// No grant takes this resource away: asked for names that somebody is about to use.
    NotRefused(Resource),
    /// This tier is not taken away: asked of somebody about to make one of its things.
    NotDenied(ResourceKind),
    /// Where a grant speaks of this tier, it gives this level.
    Tier { permission: Permission, tier: ResourceKind },
    /// This level on this resource, which the request itself named, or on the tier below it.
    Level { permission: Permission, resource: Resource, tier: Option<ResourceKind> },
    /// This level on the resource that the named thing (a run, a version) belongs to, or on its tier; `owner` is `None`
    /// when it could not be found.
    Belonging {
        permission: Permission,
        noun: &'static str,
        id: String,
        owner: Option<Resource>,
        tier: Option<ResourceKind>,
    },
    /// One of these names is the caller's, in any case: MLflow stores some in lower case.
    OneOf(Vec<String>),
    /// All of one of these lists; the first speaks for all of them when none holds.
    Any(Vec<Vec<Self>>),
}

impl Requirement {
    /// This level on this resource.
    #[must_use]
    pub const fn level(permission: Permission, resource: Resource) -> Self {
        Self::Level { permission, resource, tier: None }
    }

    /// This level on the versions of this model or prompt.
    #[must_use]
    pub fn version(permission: Permission, resource: Resource) -> Self {
        let prompt = resource.kind == ResourceKind::Prompt;
        let tier = if prompt { ResourceKind::PromptVersion } else { ResourceKind::RegisteredModelVersion };
        Self::Level { permission, resource, tier: Some(tier) }
    }

    /// The experiments it is about, whose names globs may ask for.
    pub fn experiments_mut(&mut self) -> Vec<&mut Resource> {
        let resource = match self {
            Self::NotRefused(resource) | Self::Level { resource, .. } => Some(resource),
            Self::Belonging { owner, .. } => owner.as_mut(),
            Self::Any(ways) => return ways.iter_mut().flatten().flat_map(Self::experiments_mut).collect(),
            Self::SignedIn
            | Self::Admin { .. }
            | Self::Create(_)
            | Self::Privileged(_)
            | Self::NotDenied(_)
            | Self::Tier { .. }
            | Self::OneOf(_) => None,
        };
        resource.into_iter().filter(|resource| resource.kind == ResourceKind::Experiment).collect()
    }
}

/// Proof that one request was allowed. Only this module can make one; forwarding consumes it.
#[must_use]
#[derive(Debug)]
pub struct Permit {
    _only_authorize_makes_one: (),
}

/// Why not. Its text is what the client reads: it names what was missing, unless even that is not theirs to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Denied {
    NotAdmin,
    Privileged(&'static str),
    MayNotCreate(ResourceKind),
    Missing { permission: Permission, resource: Resource },
    MissingTier { permission: Permission, tier: ResourceKind },
    NotYours,
    MissingOnOwner { permission: Permission, noun: &'static str, id: String },
    TokenIsReadOnly,
    TokenScope(NeededScope),
}

/// What a scoped access token lacks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NeededScope {
    /// This scope, as clients write it.
    Resource(String),
    /// One that may not be told, because it would tell where a thing belongs.
    Another,
    /// No scopes: making a new thing of this kind.
    Create(ResourceKind),
    /// No scopes: what concerns everything, or the owner's account.
    Unscoped,
}

impl NeededScope {
    /// The scope for this resource, where there is one of its kind.
    #[must_use]
    pub fn of(resource: &Resource) -> Self {
        if Limits::is_scopable(resource.kind) {
            Self::Resource(format!("{}:{}", resource.kind, resource.key))
        } else {
            Self::Unscoped
        }
    }
}

impl fmt::Display for NeededScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(scope) => {
                write!(f, "This access token lacks the scope `{scope}`. Create a token with that scope, or one without scopes.")
            }
            Self::Another => f.write_str(
                "This access token lacks the scope of what this belongs to. Create a token with that scope, or one without \
                 scopes.",
            ),
            Self::Create(kind) => {
                write!(f, "This access token has scopes, so it cannot create {}s. ", kind.noun())?;
                f.write_str("Use a token without scopes")?;
                if Limits::is_scopable(*kind) {
                    let noun = kind.noun();
                    write!(f, ", or create the {noun} first and give the token its scope, `{kind}:...`")?;
                }
                f.write_str(".")
            }
            Self::Unscoped => f.write_str("This access token has scopes, and this requires one without."),
        }
    }
}

impl Denied {
    /// What it is about, for the log.
    #[must_use]
    pub fn about(&self) -> Option<String> {
        match self {
            Self::Missing { resource, .. } => Some(format!("{}:{}", resource.kind, resource.key)),
            Self::MissingTier { tier: kind, .. } | Self::MayNotCreate(kind) => Some(format!("{kind}:*")),
            Self::MissingOnOwner { noun, id, .. } => Some(format!("{noun}:{id}")),
            Self::NotAdmin | Self::Privileged(_) | Self::NotYours | Self::TokenIsReadOnly | Self::TokenScope(_) => None,
        }
    }

    /// A bounded word for logs and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotAdmin | Self::Privileged(_) => "not_admin",
            Self::MayNotCreate(_) => "may_not_create",
            Self::Missing { .. } | Self::MissingTier { .. } | Self::NotYours | Self::MissingOnOwner { .. } => {
                "not_granted"
            }
            Self::TokenIsReadOnly => "token_read_only",
            Self::TokenScope(_) => "token_scope",
        }
    }
}

impl std::error::Error for Denied {}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // MLflow's own clients match `Permission denied.` with the full stop.
        f.write_str("Permission denied. ")?;
        match self {
            Self::NotAdmin => f.write_str("This needs an administrator."),
            Self::Privileged(what) => write!(f, "Only an administrator may {what}."),
            Self::MayNotCreate(kind) => write!(f, "You may not create {}s.", kind.noun()),
            Self::Missing { permission, resource } => write!(
                f,
                "{permission} on {resource} is required. Ask somebody who holds MANAGE on it, or an administrator."
            ),
            Self::MissingTier { permission, tier } => {
                write!(f, "{permission} on {}s is required. Ask an administrator.", tier.noun())
            }
            Self::NotYours => f.write_str("This belongs to somebody else."),
            Self::MissingOnOwner { permission, noun, id } => write!(
                f,
                "{permission} is required on what {noun} `{id}` belongs to. Check the id, or ask an administrator."
            ),
            Self::TokenIsReadOnly => f.write_str("This access token is read-only. Use one without that scope."),
            Self::TokenScope(needed) => needed.fmt(f),
        }
    }
}

/// Decides one request: every requirement must hold.
///
/// # Errors
/// The first requirement that does not hold.
pub fn authorize(who: &Identity, policy: Policy, requirements: &[Requirement]) -> Result<Permit, Denied> {
    for requirement in requirements {
        holds(who, policy, requirement)?;
    }
    Ok(Permit { _only_authorize_makes_one: () })
}

/// The permit for a route that the table opens to everyone, signed in or not.
pub fn open_to_all() -> Permit {
    Permit { _only_authorize_makes_one: () }
}

/// Whether somebody holds this level on one resource: the question `filter` asks of each row.
#[must_use]
pub fn may(who: &Identity, policy: Policy, permission: Permission, resource: &Resource) -> bool {
    who.limits.allow(permission, resource) && (who.admin || level(who, policy, resource).covers(permission))
}

/// Returns false if `who` cannot hold this level on any resource of `kind`, whatever request names.
///
/// A cheap check before a request is read: it looks at the grants, and not at any resource.
#[must_use]
pub fn may_any(who: &Identity, policy: Policy, permission: Permission, kind: ResourceKind) -> bool {
    let reaches = |level: Permission| policy.level(Some(level)).covers(permission);
    who.admin
        || policy.default_permission.covers(permission)
        || who.grants.has_globs(kind)
        || who.grants.level_of_all(kind).is_some_and(reaches)
        || who.grants.exact(kind).any(|(_, level)| reaches(level))
}

/// The same on a thing of a tier below the resource, as MLflow 3.17 does it: READ on the resource, and the level on the
/// tier where a grant speaks of it, else on the resource.
fn may_below(
    who: &Identity,
    policy: Policy,
    permission: Permission,
    resource: &Resource,
    tier: Option<ResourceKind>,
) -> bool {
    match tier.and_then(|tier| who.grants.level_of_all(tier)) {
        Some(level) if !who.admin => {
            who.limits.allow(permission, resource)
                && may(who, policy, Permission::Read, resource)
                && policy.level(Some(level)).covers(permission)
        }
        Some(_) | None => may(who, policy, permission, resource),
    }
}

/// Whether one requirement holds. [`authorize`] asks it of all; asked alone, it saves the look-ups for the rest.
///
/// # Errors
/// Why it does not.
pub fn holds(who: &Identity, policy: Policy, requirement: &Requirement) -> Result<(), Denied> {
    match requirement {
        Requirement::SignedIn => Ok(()),
        Requirement::Admin { change } => {
            if !who.admin {
                return Err(Denied::NotAdmin);
            }
            if *change { unconfined(who, NeededScope::Unscoped) } else { unscoped(who, NeededScope::Unscoped) }
        }
        Requirement::Create(kind) => {
            unconfined(who, NeededScope::Create(*kind))?;
            not_refused_everywhere(who, *kind)
        }
        Requirement::Privileged(what) => {
            if !who.admin {
                return Err(Denied::Privileged(what));
            }
            unconfined(who, NeededScope::Unscoped)
        }
        Requirement::NotRefused(resource) => {
            if who.admin || !level_refuses(who, resource) {
                return Ok(());
            }
            Err(Denied::Missing { permission: Permission::Manage, resource: resource.clone() })
        }
        Requirement::NotDenied(tier) => not_refused_everywhere(who, *tier),
        Requirement::Tier { permission, tier } => match who.grants.level_of_all(*tier) {
            Some(level) if !who.admin && !policy.level(Some(level)).covers(*permission) => {
                Err(Denied::MissingTier { permission: *permission, tier: *tier })
            }
            Some(_) | None => Ok(()),
        },
        Requirement::OneOf(names) => {
            let own = who.name.to_lowercase();
            let is_named = who.admin || names.iter().any(|name| name.to_lowercase() == own);
            if is_named { Ok(()) } else { Err(Denied::NotYours) }
        }
        Requirement::Any(ways) => {
            let mut first = None;
            for way in ways {
                match way.iter().try_for_each(|requirement| holds(who, policy, requirement)) {
                    Ok(()) => return Ok(()),
                    Err(denied) => first = first.or(Some(denied)),
                }
            }
            Err(first.unwrap_or(Denied::NotYours))
        }
        Requirement::Level { permission, resource, tier } => {
            if may_below(who, policy, *permission, resource, *tier) {
                return Ok(());
            }
            Err(limited(who, *permission, Some(resource), NeededScope::of)
                .unwrap_or_else(|| Denied::Missing { permission: *permission, resource: resource.clone() }))
        }
        Requirement::Belonging { permission, noun, id, owner, tier } => {
            belongs(who, policy, *permission, (noun, id), owner.as_ref(), *tier)
        }
    }
}

/// A grant on all resources of a kind or tier may take away what is needed to create one.
fn not_refused_everywhere(who: &Identity, kind: ResourceKind) -> Result<(), Denied> {
    let refused = who.grants.level_of_all(kind).is_some_and(Permission::refuses);
    if refused && !who.admin { Err(Denied::MayNotCreate(kind)) } else { Ok(()) }
}

/// Whether `permission` is held on the owner of a thing, which a message calls by its noun and ID.
fn belongs(
    who: &Identity,
    policy: Policy,
    permission: Permission,
    (noun, id): (&'static str, &str),
    owner: Option<&Resource>,
    tier: Option<ResourceKind>,
) -> Result<(), Denied> {
    if let Some(owner) = owner
        && may_below(who, policy, permission, owner, tier)
    {
        return Ok(());
    }
    // An administrator may know that it does not exist: MLflow's own 404 says it best.
    if owner.is_none() && who.admin && who.limits.is_unlimited() {
        return Ok(());
    }
    // The scope names the owner: told to whom may read it without the token's limits.
    let needed = |owner: &Resource| {
        let readable = who.admin || level(who, policy, owner).covers(Permission::Read);
        if readable { NeededScope::of(owner) } else { NeededScope::Another }
    };
    if let Some(denied) = limited(who, permission, owner, needed) {
        return Err(denied);
    }
    match owner {
        // Whoever may read it may know where it is.
        Some(owner) if may(who, policy, Permission::Read, owner) => {
            Err(Denied::Missing { permission, resource: owner.clone() })
        }
        Some(_) | None => Err(Denied::MissingOnOwner { permission, noun, id: id.to_owned() }),
    }
}

/// What concerns everything is not for a credential that is confined to some things.
fn unscoped(who: &Identity, needed: NeededScope) -> Result<(), Denied> {
    if who.limits.resources.is_empty() { Ok(()) } else { Err(Denied::TokenScope(needed)) }
}

/// Nor are changes for one that is read-only.
fn unconfined(who: &Identity, needed: NeededScope) -> Result<(), Denied> {
    if who.limits.read_only {
        return Err(Denied::TokenIsReadOnly);
    }
    unscoped(who, needed)
}

/// The credential's own limit, where that is what stands in the way. Says nothing of whether the resource exists.
fn limited(
    who: &Identity,
    permission: Permission,
    resource: Option<&Resource>,
    needed: impl Fn(&Resource) -> NeededScope,
) -> Option<Denied> {
    if !who.limits.allow_level(permission) {
        return Some(Denied::TokenIsReadOnly);
    }
    match resource {
        Some(resource) if !who.limits.allow_resource(resource) => Some(Denied::TokenScope(needed(resource))),
        None if !who.limits.resources.is_empty() => Some(Denied::TokenScope(NeededScope::Another)),
        Some(_) | None => None,
    }
}

fn level_refuses(who: &Identity, resource: &Resource) -> bool {
    who.grants.level(resource).is_some_and(Permission::refuses)
}

pub(super) fn level(who: &Identity, policy: Policy, resource: &Resource) -> Permission {
    if resource.kind == ResourceKind::Job {
        // A job is its creator's; the default speaks of what people share.
        return who.grants.level(resource).unwrap_or(Permission::NoPermissions);
    }
    policy.level(who.grants.level(resource))
}

/// Which resources of a kind somebody may read, known before a list is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Visibility {
    /// Every one: a list needs no filter.
    All,
    /// Exactly these, sorted; empty means none.
    Only(Vec<String>),
    /// Cannot be listed in advance: ask [`may`] for each row.
    PerRow,
}

impl Visibility {
    /// What `who` may read of `kind`.
    #[must_use]
    pub fn of(who: &Identity, policy: Policy, kind: ResourceKind) -> Self {
        let readable = |key: &str| may(who, policy, Permission::Read, &Resource::new(kind, key));
        if !who.limits.resources.is_empty() {
            if kind == ResourceKind::Experiment && who.needs_names() {
                return Self::PerRow;
            }
            let scoped = who.limits.resources.iter().filter(|(k, key)| *k == kind && readable(key));
            return Self::Only(scoped.map(|(_, key)| key.clone()).collect());
        }
        if who.admin {
            return Self::All;
        }
        let default_reads = policy.default_permission.covers(Permission::Read);
        let all = who.grants.level_of_all(kind);
        if all.is_some_and(Permission::refuses) {
            return Self::Only(Vec::new());
        }
        if default_reads || all.is_some() {
            let hides = who.grants.exact(kind).any(|(_, level)| level.refuses());
            return if hides || who.grants.has_globs(kind) { Self::PerRow } else { Self::All };
        }
        if who.grants.has_globs(kind) {
            return Self::PerRow;
        }
        let mut keys: Vec<String> =
            who.grants.exact(kind).map(|(key, _)| key).filter(|key| readable(key)).map(str::to_owned).collect();
        keys.sort_unstable();
        Self::Only(keys)
    }
}
