"""Prints the commands that create the users, roles and grants of MLflow's basic-auth in mlflow-auth-proxy.

Usage: python export.py DATABASE_URI > import.sh

DATABASE_URI is `database_uri` of basic_auth.ini, such as sqlite:///basic_auth.db. Needs SQLAlchemy, which MLflow installs. Only reads.
"""

import shlex
import sys
from urllib.parse import quote

import sqlalchemy

# Before MLflow 3.12: one table for each kind of resource, with the column that names the resource.
TABLES = {
    "experiment_permissions": ("experiment", "experiment_id"),
    "registered_model_permissions": ("registered_model", "name"),
    "scorer_permissions": ("scorer", "scorer_name"),
    "gateway_secret_permissions": ("gateway_secret", "secret_id"),
    "gateway_endpoint_permissions": ("gateway_endpoint", "endpoint_id"),
    "gateway_model_definition_permissions": ("gateway_model_definition", "model_definition_id"),
}


def command(*words, prefix=""):
    print(prefix + shlex.join(["mlflow-auth-proxy", *words]))


def grant(words, kind, resource, permission):
    command(*words, "--type", kind, "--resource", str(resource), "--permission", permission)


def main(uri):
    connection = sqlalchemy.create_engine(uri).connect()
    tables = set(sqlalchemy.inspect(connection).get_table_names())

    def rows(table):
        return [row._mapping for row in connection.execute(sqlalchemy.text(f"SELECT * FROM {table} ORDER BY id"))]

    users = {user["id"]: user for user in rows("users")}
    for user in users.values():
        command("user", "create", user["username"], "--password-stdin", prefix="openssl rand -base64 24 | ")
        if user["is_admin"]:
            command("user", "set-admin", user["username"], "true")

    if "role_permissions" in tables:
        export_roles(users, rows("roles"), rows("role_permissions"), rows("user_role_assignments"))
        return
    for table in TABLES.keys() & tables:
        kind, column = TABLES[table]
        for row in rows(table):
            resource = row[column]
            if kind == "scorer":
                resource = f"{row['experiment_id']}/{quote(resource, safe='')}"
            grant(["grant", "set", "--user", users[row["user_id"]]["username"]], kind, resource, row["permission"])


def export_roles(users, roles, permissions, assignments):
    owners = {f"__user_{id}__": user["username"] for id, user in users.items()}
    for role in roles:
        name = role["name"]
        if role["workspace"] != "default":
            print(f"left out, because only the default workspace is served: {role['workspace']}/{name}", file=sys.stderr)
            continue
        # MLflow keeps the grants of one user as a role of this name.
        owner = owners.get(name)
        if owner is None:
            command("role", "create", name)
        words = ["role", "grant", name] if owner is None else ["grant", "set", "--user", owner]
        for row in permissions:
            if row["role_id"] == role["id"]:
                grant(words, row["resource_type"], row["resource_pattern"], row["permission"])
        for row in assignments:
            if row["role_id"] == role["id"] and owner is None:
                command("role", "assign", name, "--user", users[row["user_id"]]["username"])


if __name__ == "__main__":
    main(sys.argv[1])
