//! Decides requests: returns a permit if all requirements hold, or the reason why not.
//!
//! A request is allowed only if every requirement holds; every other path refuses it.

use std::fmt;

use super::{Identity, Limits, Permission, Resource, ResourceKind};

/// Level of a signed-in user where no grant applies, and the minimum of every positive grant.
#[derive(Clone, Copy, Debug)]
pub struct DefaultPermission(pub Permission);

impl DefaultPermission {
    /// Combines the grants' level, `None` if no grant applies, with the default permission.
    #[must_use]
    pub fn level(self, granted: Option<Permission>) -> Permission {
        match granted {
            None => self.0,
            Some(level) if level.refuses() => level,
            Some(level) => level.max(self.0),
        }
    }
}

/// A condition for forwarding a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Requirement {
    /// A signed-in caller.
    SignedIn,
    /// An administrator. If `change` is set, a read-only credential is not sufficient.
    Admin { change: bool },
    /// A caller who is allowed to create resources of this kind.
    Create(ResourceKind),
    /// An administrator, because of one detail of the request. The words complete "Only an administrator may ...".
    Privileged(&'static str),
    /// No grant refuses this resource. Required for names that the caller is about to use.
    NotRefused(Resource),
    /// No grant refuses this tier. Required of a caller who is about to create something in it.
    NotDenied(ResourceKind),
    /// If a grant applies to this tier, it grants this level.
    Tier { permission: Permission, tier: ResourceKind },
    /// This level on this resource, which the request itself named, or on the tier below it.
    Level { permission: Permission, resource: Resource, tier: Option<ResourceKind> },
    /// This level on the resource that contains the named object (a run, a version), or on its tier. `owner` is `None`
    /// if the resource could not be found.
    Belonging {
        permission: Permission,
        noun: &'static str,
        id: String,
        owner: Option<Resource>,
        tier: Option<ResourceKind>,
    },
    /// One of these names is the caller's, compared without case because MLflow stores some names in lower case.
    OneOf(Vec<String>),
    /// All requirements of at least one list. If none holds, the error is that of the first list.
    Any(Vec<Vec<Self>>),
}

impl Requirement {
    /// Requires this level on this resource.
    #[must_use]
    pub const fn level(permission: Permission, resource: Resource) -> Self {
        Self::Level { permission, resource, tier: None }
    }

    /// Requires this level on the versions of this model or prompt.
    #[must_use]
    pub fn version(permission: Permission, resource: Resource) -> Self {
        let prompt = resource.kind == ResourceKind::Prompt;
        let tier = if prompt { ResourceKind::PromptVersion } else { ResourceKind::RegisteredModelVersion };
        Self::Level { permission, resource, tier: Some(tier) }
    }

    /// Returns the experiments of this requirement. Globs can need their names.
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

/// Proof that one request was allowed. Only this module creates permits; forwarding consumes one.
#[must_use]
#[derive(Debug)]
pub struct Permit {
    _only_authorize_makes_one: (),
}

/// Reason for a refusal. Its text is sent to the client and names the missing permission, unless that would reveal
/// something the client is not allowed to know.
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

/// The scope that an access token lacks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NeededScope {
    /// This scope, as clients write it.
    Resource(String),
    /// A scope that is not named, because it would reveal the resource that an object belongs to.
    Another,
    /// A token without scopes, because the request creates something of this kind.
    Create(ResourceKind),
    /// A token without scopes, because the request concerns all resources or the owner's account.
    Unscoped,
}

impl NeededScope {
    /// Returns the scope for this resource, if resources of its kind can be in scopes.
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
                "This access token lacks the scope of the resource that this belongs to. Create a token with that scope, or one without \
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
    /// Returns the resource or object of the refused request, for the log.
    #[must_use]
    pub fn about(&self) -> Option<String> {
        match self {
            Self::Missing { resource, .. } => Some(format!("{}:{}", resource.kind, resource.key)),
            Self::MissingTier { tier: kind, .. } | Self::MayNotCreate(kind) => Some(format!("{kind}:*")),
            Self::MissingOnOwner { noun, id, .. } => Some(format!("{noun}:{id}")),
            Self::NotAdmin | Self::Privileged(_) | Self::NotYours | Self::TokenIsReadOnly | Self::TokenScope(_) => None,
        }
    }

    /// Returns a word from a fixed set, for logs and metrics.
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
        // MLflow's own clients match `Permission denied.` including the full stop.
        f.write_str("Permission denied. ")?;
        match self {
            Self::NotAdmin => f.write_str("This requires an administrator."),
            Self::Privileged(what) => write!(f, "Only an administrator may {what}."),
            Self::MayNotCreate(kind) => write!(f, "You are not allowed to create {}s.", kind.noun()),
            Self::Missing { permission, resource } => {
                write!(f, "{permission} on {resource} is required. Ask a user with MANAGE on it, or an administrator.")
            }
            Self::MissingTier { permission, tier } => {
                write!(f, "{permission} on {}s is required. Ask an administrator.", tier.noun())
            }
            Self::NotYours => f.write_str("This belongs to another user."),
            Self::MissingOnOwner { permission, noun, id } => write!(
                f,
                "{permission} is required on the resource that {noun} `{id}` belongs to. Check the ID, or ask an administrator."
            ),
            Self::TokenIsReadOnly => f.write_str("This access token is read-only. Use one without that scope."),
            Self::TokenScope(needed) => needed.fmt(f),
        }
    }
}

/// Authorizes a request if every requirement holds.
///
/// # Errors
/// The reason of the first requirement that does not hold.
pub fn authorize(
    who: &Identity,
    default_permission: DefaultPermission,
    requirements: &[Requirement],
) -> Result<Permit, Denied> {
    for requirement in requirements {
        holds(who, default_permission, requirement)?;
    }
    Ok(Permit { _only_authorize_makes_one: () })
}

/// Returns the permit for a route that the table opens to all callers, signed in or not.
pub fn open_to_all() -> Permit {
    Permit { _only_authorize_makes_one: () }
}

/// Returns true if the identity has this level on one resource. `filter` calls it for each row.
#[must_use]
pub fn may(who: &Identity, default_permission: DefaultPermission, permission: Permission, resource: &Resource) -> bool {
    who.limits.allow(permission, resource) && (who.admin || level(who, default_permission, resource).covers(permission))
}

/// Returns false if `who` cannot have this level on any resource of `kind`, whichever resource a request names.
///
/// A cheap check before a request is read: it examines the grants only.
#[must_use]
pub fn may_any(
    who: &Identity,
    default_permission: DefaultPermission,
    permission: Permission,
    kind: ResourceKind,
) -> bool {
    let reaches = |level: Permission| default_permission.level(Some(level)).covers(permission);
    who.admin
        || default_permission.0.covers(permission)
        || who.grants.has_globs(kind)
        || who.grants.level_of_all(kind).is_some_and(reaches)
        || who.grants.exact(kind).any(|(_, level)| reaches(level))
}

/// Returns true if the identity has this level on an object of a tier below the resource. As in MLflow 3.17, that
/// requires READ on the resource, and the level on the tier if a grant applies to it, otherwise on the resource.
fn may_below(
    who: &Identity,
    default_permission: DefaultPermission,
    permission: Permission,
    resource: &Resource,
    tier: Option<ResourceKind>,
) -> bool {
    match tier.and_then(|tier| who.grants.level_of_all(tier)) {
        Some(level) if !who.admin => {
            who.limits.allow(permission, resource)
                && may(who, default_permission, Permission::Read, resource)
                && default_permission.level(Some(level)).covers(permission)
        }
        Some(_) | None => may(who, default_permission, permission, resource),
    }
}

/// Checks one requirement. [`authorize`] checks all; calling this first can save the look-ups for the others.
///
/// # Errors
/// The reason why it does not hold.
pub fn holds(who: &Identity, default_permission: DefaultPermission, requirement: &Requirement) -> Result<(), Denied> {
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
        // Without a grant on the tier, the level on the resource decides alone.
        Requirement::Tier { permission, tier } => match who.grants.level_of_all(*tier) {
            Some(level) if !who.admin && !default_permission.level(Some(level)).covers(*permission) => {
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
                match way.iter().try_for_each(|requirement| holds(who, default_permission, requirement)) {
                    Ok(()) => return Ok(()),
                    Err(denied) => first = first.or(Some(denied)),
                }
            }
            Err(first.unwrap_or(Denied::NotYours))
        }
        Requirement::Level { permission, resource, tier } => {
            if may_below(who, default_permission, *permission, resource, *tier) {
                return Ok(());
            }
            // Refused in any case; this only selects the reason that helps the caller most.
            Err(limited(who, *permission, Some(resource), NeededScope::of)
                .unwrap_or_else(|| Denied::Missing { permission: *permission, resource: resource.clone() }))
        }
        Requirement::Belonging { permission, noun, id, owner, tier } => {
            belongs(who, default_permission, *permission, (noun, id), owner.as_ref(), *tier)
        }
    }
}

/// Refuses creation if a grant on all resources of the kind or tier refuses access.
fn not_refused_everywhere(who: &Identity, kind: ResourceKind) -> Result<(), Denied> {
    let refused = who.grants.level_of_all(kind).is_some_and(Permission::refuses);
    if refused && !who.admin { Err(Denied::MayNotCreate(kind)) } else { Ok(()) }
}

/// Checks that `permission` is held on the owner of an object, which errors describe by noun and ID.
fn belongs(
    who: &Identity,
    default_permission: DefaultPermission,
    permission: Permission,
    (noun, id): (&'static str, &str),
    owner: Option<&Resource>,
    tier: Option<ResourceKind>,
) -> Result<(), Denied> {
    if let Some(owner) = owner
        && may_below(who, default_permission, permission, owner, tier)
    {
        return Ok(());
    }
    // An administrator is allowed to learn that the object does not exist, and MLflow's own 404 reports it best.
    if owner.is_none() && who.admin && who.limits.is_unlimited() {
        return Ok(());
    }
    // The scope contains the owner's key, so it is named only to users who can read the owner without the token's
    // limits.
    let needed = |owner: &Resource| {
        let readable = who.admin || level(who, default_permission, owner).covers(Permission::Read);
        if readable { NeededScope::of(owner) } else { NeededScope::Another }
    };
    if let Some(denied) = limited(who, permission, owner, needed) {
        return Err(denied);
    }
    match owner {
        // A caller who can read the owner is allowed to know which one it is.
        Some(owner) if may(who, default_permission, Permission::Read, owner) => {
            Err(Denied::Missing { permission, resource: owner.clone() })
        }
        Some(_) | None => Err(Denied::MissingOnOwner { permission, noun, id: id.to_owned() }),
    }
}

/// Refuses a credential with scopes where the request concerns everything.
fn unscoped(who: &Identity, needed: NeededScope) -> Result<(), Denied> {
    if who.limits.resources.is_empty() { Ok(()) } else { Err(Denied::TokenScope(needed)) }
}

/// Refuses a credential with scopes and a read-only one.
fn unconfined(who: &Identity, needed: NeededScope) -> Result<(), Denied> {
    if who.limits.read_only {
        return Err(Denied::TokenIsReadOnly);
    }
    unscoped(who, needed)
}

/// Returns the refusal if the credential's own limits cause it. It does not reveal whether the resource exists.
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

pub(super) fn level(who: &Identity, default_permission: DefaultPermission, resource: &Resource) -> Permission {
    if resource.kind == ResourceKind::Job {
        // A job belongs to its creator. The default permission applies to shared resources only.
        return who.grants.level(resource).unwrap_or(Permission::NoPermissions);
    }
    default_permission.level(who.grants.level(resource))
}

/// The resources of a kind that an identity can read, as far as they are known before a list is requested.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Visibility {
    /// All resources; a list needs no filter.
    All,
    /// Exactly these, sorted; empty means none.
    Only(Vec<String>),
    /// Not known in advance; call [`may`] for each row.
    PerRow,
}

impl Visibility {
    /// Returns the resources of `kind` that `who` can read.
    #[must_use]
    pub fn of(who: &Identity, default_permission: DefaultPermission, kind: ResourceKind) -> Self {
        let readable = |key: &str| may(who, default_permission, Permission::Read, &Resource::new(kind, key));
        if !who.limits.resources.is_empty() {
            // A glob that refuses can match a scoped experiment, whose name is not known here.
            if kind == ResourceKind::Experiment && who.needs_names() {
                return Self::PerRow;
            }
            let scoped = who.limits.resources.iter().filter(|(k, key)| *k == kind && readable(key));
            return Self::Only(scoped.map(|(_, key)| key.clone()).collect());
        }
        if who.admin {
            return Self::All;
        }
        let default_reads = default_permission.0.covers(Permission::Read);
        let all = who.grants.level_of_all(kind);
        if all.is_some_and(Permission::refuses) {
            return Self::Only(Vec::new());
        }
        if default_reads || all.is_some() {
            // All except some: such a list cannot be requested from MLflow by its keys.
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
