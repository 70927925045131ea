"""Label schemas, review queues and issues: who writes the questions, who sits in a queue, who owns one."""

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.genai import label_schemas, review_queues
from mlflow.genai.label_schemas import InputText

from endpoints import EDIT, MANAGE, READ
from endpoints_genai import TEXT_SCHEMA, V3, new_queue, new_trace
from harness import World, check_refused, unique

QUEUES = f"{V3}/review-queues"


@pytest.fixture
def other_world(proxy):
    return World.make(proxy.person("other"))


@pytest.fixture
def trace(world):
    return new_trace(world.owner, world.experiment)


def looks(queue):
    """Both ways to open a queue that is named by its id."""
    return [(f"{QUEUES}/get", {"queue_id": queue}), (f"{QUEUES}/items/list", {"queue_id": queue})]


def check_opens(person, queue):
    for path, query in looks(queue):
        answer = person.get(path, query)
        assert answer.status_code == 200, f"{path}: {answer.text}"


def check_hidden(person, queue):
    for path, query in looks(queue):
        check_refused(person.get(path, query))


def listed(person, world, **query):
    found = person.ok("GET", f"{QUEUES}/list", params={"experiment_id": world.experiment} | query)
    return {one["queue_id"] for one in found.get("review_queues", [])}


def add(person, queue, *traces):
    return person.post(f"{QUEUES}/items/add", {"queue_id": queue, "item_ids": list(traces)})


def finish(person, queue, trace, **more):
    body = {"queue_id": queue, "item_id": trace, "status": "COMPLETE", "completed_by": person.name}
    return person.post(f"{QUEUES}/items/set-status", body | more)


# ---- the client


def test_the_client_asks_questions_and_answers_them(proxy, people, world, trace):
    reader, editor, manager = people(world, READ, EDIT, MANAGE)
    with editor.mlflow(), pytest.raises(MlflowException, match="Permission denied"):
        label_schemas.create_label_schema("nice", type="feedback", input=InputText(), experiment_id=world.experiment)
    with manager.mlflow():
        schema = label_schemas.create_label_schema("nice", type="feedback", input=InputText(), experiment_id=world.experiment)
        label_schemas.update_label_schema(schema_id=schema.schema_id, instruction="Is it?")
    with reader.mlflow():
        assert label_schemas.get_label_schema(schema_id=schema.schema_id).instruction == "Is it?"
        with pytest.raises(MlflowException, match="Permission denied"):
            label_schemas.delete_label_schema(schema_id=schema.schema_id)
    with manager.mlflow():
        queue = review_queues.create_review_queue(
            unique("queue"), queue_type="custom", users=[editor.name, reader.name], schema_ids=[schema.schema_id],
            experiment_id=world.experiment)
        review_queues.add_items_to_review_queue(queue.queue_id, item_ids=[trace])
    with editor.mlflow():
        (item,) = review_queues.list_review_queue_items(queue.queue_id)
        assert item.item_id == trace
        done = review_queues.set_review_queue_item_status(
            queue.queue_id, item_id=trace, status="complete", completed_by=editor.name)
        assert done.completed_by == editor.name
    with proxy.person("stranger").mlflow():
        with pytest.raises(MlflowException, match="Permission denied"):
            review_queues.get_review_queue(queue.queue_id)
        with pytest.raises(MlflowException, match="Permission denied"):
            review_queues.list_review_queues(experiment_id=world.experiment)
    with manager.mlflow():
        review_queues.delete_review_queue(queue.queue_id)


# ---- who sees a queue


def test_a_reader_sees_the_queues_they_sit_in(mlflow_server, people, world, trace):
    inside, outside = people(world, READ, READ)
    queue, other = new_queue(world, [inside.name]), new_queue(world, [])
    add(world.owner, queue, trace)
    with mlflow_server.unchanged():
        check_opens(inside, queue)
        check_hidden(inside, other)
        check_hidden(outside, queue)
        assert listed(inside, world) == {queue}
        assert listed(outside, world) == set()
        assert listed(outside, world, user=inside.name) == set()
        # To work in it takes EDIT.
        check_refused(finish(inside, queue, trace))
        check_refused(add(inside, queue, trace))


def test_an_editor_is_listed_every_queue_and_opens_their_own(people, world):
    member, owner, other = people(world, EDIT, EDIT, EDIT)
    queue = new_queue(world, [member.name], who=owner)
    for person in (member, owner, other):
        assert queue in listed(person, world)
    check_opens(member, queue)
    check_opens(owner, queue)
    check_hidden(other, queue)


def test_a_manager_opens_every_queue(people, world):
    editor, manager = people(world, EDIT, MANAGE)
    queue = new_queue(world, [], who=editor)
    check_opens(manager, queue)
    assert queue in listed(manager, world)


def test_a_queue_by_its_name_is_the_same_queue(people, world):
    inside, outside, owner, manager = people(world, READ, EDIT, EDIT, MANAGE)
    name = unique("queue")
    new_queue(world, [inside.name], who=owner, name=name)
    query = {"experiment_id": world.experiment, "name": name}
    for person in (inside, owner, manager):
        assert person.get(f"{QUEUES}/get-by-name", query).status_code == 200
    check_refused(outside.get(f"{QUEUES}/get-by-name", query))


def test_members_are_the_same_in_any_case(proxy, people, world):
    (inside,) = people(world, READ)
    queue = new_queue(world, [inside.name.upper()])
    check_opens(inside, queue)
    capital = proxy.person("Capital")
    world.owner.grant(capital, "experiment", world.experiment, READ)
    queue = new_queue(world, [capital.name])
    check_opens(capital, queue)
    assert listed(capital, world) == {queue}


def test_a_seat_is_no_permission(proxy, world, trace):
    """Who sits in a queue and may not read the experiment, may not read the queue."""
    stranger = proxy.person("stranger")
    queue = new_queue(world, [stranger.name])
    add(world.owner, queue, trace)
    check_hidden(stranger, queue)
    check_refused(stranger.get(f"{QUEUES}/list", {"experiment_id": world.experiment}))
    check_refused(finish(stranger, queue, trace))


def test_who_leaves_a_queue_no_longer_sees_it(people, world):
    (reader,) = people(world, READ)
    queue = new_queue(world, [reader.name])
    check_opens(reader, queue)
    world.owner.ok("POST", f"{QUEUES}/update", {"queue_id": queue, "update_users": True, "users": []})
    check_hidden(reader, queue)


# ---- who works in it


def test_items_are_finished_by_who_sits_there(mlflow_server, people, world, trace):
    member, outside, manager = people(world, EDIT, EDIT, MANAGE)
    queue = new_queue(world, [member.name])
    assert add(outside, queue, trace).status_code == 200  # any editor may flag
    with mlflow_server.unchanged():
        check_refused(finish(outside, queue, trace))
        check_refused(finish(manager, queue, trace))
    assert finish(member, queue, trace).status_code == 200


def test_a_finished_item_bears_the_name_of_who_finished_it(people, world, trace):
    member, other = people(world, EDIT, EDIT)
    queue = new_queue(world, [member.name])
    add(world.owner, queue, trace)
    for claim in ({"completed_by": other.name}, {"completedBy": other.name, "completed_by": None}):
        claim = {key: value for key, value in claim.items() if value}
        body = {"queue_id": queue, "item_id": trace, "status": "COMPLETE"} | claim
        done = member.ok("POST", f"{QUEUES}/items/set-status", body)["item"]
        assert done["completed_by"] == member.name
    again = member.ok("POST", f"{QUEUES}/items/set-status", {"queue_id": queue, "item_id": trace, "status": "PENDING"})["item"]
    assert not again.get("completed_by")


def test_only_traces_of_the_experiment_come_into_its_queue(mlflow_server, world, other_world):
    queue, theirs = new_queue(world, []), new_trace(other_world.owner, other_world.experiment)
    with mlflow_server.unchanged():
        answer = add(world.owner, queue, theirs)
        assert answer.status_code in (403, 404), answer.text


# ---- who owns it


def test_an_editor_owns_the_queue_they_made(mlflow_server, people, world, trace):
    owner, other, manager = people(world, EDIT, EDIT, MANAGE)
    queue = new_queue(world, [], who=owner)
    add(owner, queue, trace)

    def shape(person):
        yield person.post(f"{QUEUES}/update", {"queue_id": queue, "name": unique("renamed")})
        yield person.post(f"{QUEUES}/update", {"queue_id": queue, "update_users": True, "users": [person.name]})
        yield person.post(f"{QUEUES}/items/remove", {"queue_id": queue, "item_ids": [trace]})

    with mlflow_server.unchanged():
        for answer in shape(other):
            check_refused(answer)
        check_refused(other.post(f"{QUEUES}/delete", {"queue_id": queue}))
    for person in (owner, manager):
        for answer in shape(person):
            assert answer.status_code == 200, answer.text
    assert owner.post(f"{QUEUES}/delete", {"queue_id": queue}).status_code == 200


def test_ownership_is_no_substitute_for_edit(people, world):
    (owner,) = people(world, EDIT)
    queue = new_queue(world, [], who=owner)
    world.owner.grant(owner, "experiment", world.experiment, READ)
    check_hidden(owner, queue)
    check_refused(owner.post(f"{QUEUES}/update", {"queue_id": queue, "name": "mine"}))
    check_refused(owner.post(f"{QUEUES}/delete", {"queue_id": queue}))


@pytest.mark.parametrize("field", ["new_owner", "newOwner"])
def test_a_queue_changes_hands_by_a_manager(mlflow_server, people, world, field):
    owner, other, manager = people(world, EDIT, EDIT, MANAGE)
    queue = new_queue(world, [], who=owner)
    change = {"queue_id": queue, field: other.name}
    with mlflow_server.unchanged():
        check_refused(owner.post(f"{QUEUES}/update", change))
        check_refused(other.post(f"{QUEUES}/update", change))
    assert manager.post(f"{QUEUES}/update", change).status_code == 200
    check_opens(other, queue)
    check_hidden(owner, queue)


def test_the_maker_of_a_queue_is_its_owner_whatever_the_request_says(people, world):
    owner, other = people(world, EDIT, EDIT)
    made = owner.ok("POST", f"{QUEUES}/create", {
        "experiment_id": world.experiment, "name": unique("queue"), "queue_type": "CUSTOM", "created_by": other.name,
    })["review_queue"]
    check_opens(owner, made["queue_id"])
    check_hidden(other, made["queue_id"])
    assert owner.ok("GET", f"{QUEUES}/get", params={"queue_id": made["queue_id"]})["review_queue"]["created_by"] == owner.name


def test_a_users_queue_is_a_managers_to_delete(mlflow_server, people, world):
    user, manager = people(world, EDIT, MANAGE)
    made = user.ok("POST", f"{QUEUES}/get-or-create-user", {"experiment_id": world.experiment, "user": user.name})
    queue = made["review_queue"]["queue_id"]
    check_opens(user, queue)
    with mlflow_server.unchanged():
        check_refused(user.post(f"{QUEUES}/delete", {"queue_id": queue}))
    assert manager.post(f"{QUEUES}/delete", {"queue_id": queue}).status_code == 200


def test_a_custom_queue_does_not_take_a_users_name(mlflow_server, admin, people, world):
    user, editor = people(world, READ, EDIT)
    queue = new_queue(world, [], who=editor)
    with mlflow_server.unchanged():
        for person in (editor, world.owner, admin):
            for name in (user.name, user.name.upper(), f" {user.name} "):
                new = {"experiment_id": world.experiment, "name": name, "queue_type": "CUSTOM"}
                assert person.post(f"{QUEUES}/create", new).status_code == 400, name
                assert person.post(f"{QUEUES}/update", {"queue_id": queue, "name": name}).status_code == 400, name


def test_an_unknown_queue_is_answered_as_a_hidden_one(world, other_world):
    hidden = new_queue(other_world, [])
    unknown = hidden[:-4] + "0000"
    for path, key in (("get", "queue_id"), ("items/list", "queue_id")):
        answers = [check_refused(world.owner.get(f"{QUEUES}/{path}", {key: one})).replace(one, "ID") for one in (hidden, unknown)]
        assert answers[0] == answers[1]


# ---- label schemas


def test_a_schema_of_another_experiment_stays_out_of_reach(mlflow_server, world, other_world):
    made = other_world.owner.ok("POST", f"{V3}/label-schemas/create",
                                {"experiment_id": other_world.experiment, "name": "theirs"} | TEXT_SCHEMA)
    schema = made["label_schema"]["schema_id"]
    with mlflow_server.unchanged():
        check_refused(world.owner.get(f"{V3}/label-schemas/get", {"schema_id": schema}))
        check_refused(world.owner.patch(f"{V3}/label-schemas/update", {"schema_id": schema, "instruction": "mine"}))
        check_refused(world.owner.delete(f"{V3}/label-schemas/delete", {"schema_id": schema}))
        check_refused(world.owner.get(f"{V3}/label-schemas/get-by-name",
                                      {"experiment_id": other_world.experiment, "name": "theirs"}))


# ---- issues


def test_an_issue_is_seen_and_changed_in_its_experiment(mlflow_server, proxy, people, world, other_world):
    reader, editor = people(world, READ, EDIT)
    stranger = proxy.person("stranger")
    new = {"experiment_id": world.experiment, "name": "slow", "description": World.SECRET}
    issue = editor.ok("POST", f"{V3}/issues", new)["issue"]["issue_id"]
    assert reader.ok("GET", f"{V3}/issues/{issue}")["issue"]["description"] == World.SECRET
    found = reader.ok("POST", f"{V3}/issues/search", {"experiment_id": world.experiment})["issues"]
    assert [one["issue_id"] for one in found] == [issue]
    with mlflow_server.unchanged():
        for person in (stranger, other_world.owner):
            check_refused(person.get(f"{V3}/issues/{issue}"))
            check_refused(person.post(f"{V3}/issues/search", {"experiment_id": world.experiment}))
            assert person.post(f"{V3}/issues/search", {}).status_code in (400, 403)
            check_refused(person.patch(f"{V3}/issues/{issue}", {"issue_id": issue, "description": "new"}))
            # Two ids in one request are no request.
            assert person.patch(f"{V3}/issues/{issue}", {"issue_id": "i-1", "description": "new"}).status_code in (400, 403)
        check_refused(reader.patch(f"{V3}/issues/{issue}", {"issue_id": issue, "description": "new"}))
        check_refused(reader.post(f"{V3}/issues", new))
    assert editor.patch(f"{V3}/issues/{issue}", {"issue_id": issue, "description": "new"}).status_code == 200


def test_an_issue_bears_its_makers_name(people, world):
    (editor,) = people(world, EDIT)
    for key in ("created_by", "createdBy"):
        new = {"experiment_id": world.experiment, "name": "slow", "description": "d", key: world.owner.name}
        assert editor.ok("POST", f"{V3}/issues", new)["issue"]["created_by"] == editor.name


def test_the_run_of_a_new_issue_is_one_that_its_maker_may_read(mlflow_server, world, other_world):
    new = {"experiment_id": world.experiment, "name": "slow", "description": "d"}
    with mlflow_server.unchanged():
        check_refused(world.owner.post(f"{V3}/issues", new | {"source_run_id": other_world.run}))
    assert world.owner.post(f"{V3}/issues", new | {"source_run_id": world.run}).status_code == 200


def test_the_client_stays_who_it_is(people, world):
    """Two people in one process, one after the other, are two people."""
    reader, editor = people(world, READ, EDIT)
    for person, may in ((editor, True), (reader, False), (editor, True)):
        with person.mlflow():
            try:
                review_queues.create_review_queue(unique("queue"), queue_type="custom", experiment_id=world.experiment)
            except MlflowException as refused:
                assert not may, refused
                assert "Permission denied" in str(refused)
            else:
                assert may
    assert not mlflow.active_run()
