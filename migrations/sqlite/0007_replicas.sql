-- Several processes on one store.

-- Which cached permissions each change affects; `revision` is that of `meta`. Only the newest rows are kept.
CREATE TABLE changes (
    revision BIGINT NOT NULL PRIMARY KEY,
    scopes   TEXT   NOT NULL -- JSON array
);

-- Exclusive rights of one process, until it releases them or they expire (Unix ms).
CREATE TABLE leases (
    name   TEXT   NOT NULL PRIMARY KEY,
    holder TEXT   NOT NULL,
    until  BIGINT NOT NULL
);

-- Identifiers that are accepted once, such as the states of sign-ins, until they would have expired (Unix ms).
CREATE TABLE used_once (
    kind    TEXT   NOT NULL,
    id      TEXT   NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);

-- Counters of wrong passwords that all processes share, by a hash of the address, the account or both (times: Unix ms).
CREATE TABLE guesses (
    key         BLOB    NOT NULL PRIMARY KEY,
    since       BIGINT  NOT NULL, -- when the window began
    failures    BIGINT  NOT NULL,
    under_way   BIGINT  NOT NULL,
    next        BIGINT  NOT NULL, -- from when on the next guess is granted
    unproven    BOOLEAN NOT NULL, -- a guess ended without a hash
    known_until BIGINT  NOT NULL, -- until when the address is known to the account
    expires     BIGINT  NOT NULL
);

-- The process that carries out an intent; none: a version before this column.
ALTER TABLE intents ADD COLUMN holder TEXT;

-- The grants of a user or a role go with it.
DELETE FROM grants WHERE subject_kind = 'user' AND CAST(subject AS INTEGER) NOT IN (SELECT id FROM users);
DELETE FROM grants WHERE subject_kind = 'role' AND CAST(subject AS INTEGER) NOT IN (SELECT id FROM roles);
ALTER TABLE grants ADD COLUMN user_id BIGINT
    GENERATED ALWAYS AS (CASE subject_kind WHEN 'user' THEN CAST(subject AS INTEGER) END) VIRTUAL
    REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE grants ADD COLUMN role_id BIGINT
    GENERATED ALWAYS AS (CASE subject_kind WHEN 'role' THEN CAST(subject AS INTEGER) END) VIRTUAL
    REFERENCES roles (id) ON DELETE CASCADE;
CREATE INDEX grants_by_user ON grants (user_id);
CREATE INDEX grants_by_role ON grants (role_id);

-- The audit log is shortened from its oldest end.
CREATE INDEX audit_by_time ON audit (at);

-- The oldest schema that a process must know to use this one, and the release that has it.
CREATE TABLE compatibility (
    oldest  BIGINT NOT NULL PRIMARY KEY,
    release TEXT   NOT NULL
);
INSERT INTO compatibility (oldest, release) VALUES (7, '0.1.0');
