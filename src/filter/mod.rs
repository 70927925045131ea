//! Responses -> what this person may see, and what follows in our store when MLflow said yes.
//!
//! Lists are filled up page by page so that a page is full while anything readable is left; effects run to their end
//! even if the client has gone.

mod actions;
mod effects;
mod lists;
mod push_down;
mod reissued;

pub use actions::{with_actions, with_all_actions};
pub use effects::{Done, EffectError, Effects, Happening, ReconcileError};
pub use lists::{ListError, ListRequest, Lists};
