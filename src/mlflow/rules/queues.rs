//! Review queues.

use super::super::locate::{Located, text_field};
use super::super::{Json, LocateError, Thing};
use super::{Demand, QueuePart};
use crate::authz::Permission;

/// Returns the demands on the name of a queue: it must not be a user's name, unless the queue is personal.
pub(super) fn name(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let personal = text_field(body, "queue_type")?.is_some_and(|kind| kind == "USER");
    let name = text_field(body, "name")?.filter(|_| !personal);
    Ok(name.map(Demand::NoUsersName).into_iter().collect())
}

/// Returns the demands of a change of a queue.
pub(super) fn update(located: &[Located], body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let mut demands = part(located, QueuePart::Owner);
    if text_field(body, "new_owner")?.is_some() {
        let whole = |located: &Located| Demand::Located(Located { permission: Permission::Manage, ..located.clone() });
        demands.extend(located.iter().map(whole));
    }
    demands.extend(text_field(body, "name")?.map(Demand::NoUsersName));
    Ok(demands)
}

pub(super) fn part(located: &[Located], part: QueuePart) -> Vec<Demand> {
    let queues = located.iter().filter(|one| matches!(one.thing, Thing::ReviewQueue | Thing::ReviewQueueName));
    queues.map(|queue| Demand::Queue { queue: queue.clone(), part }).collect()
}
