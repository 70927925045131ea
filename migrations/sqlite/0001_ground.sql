-- Times are Unix milliseconds. Every number is BIGINT, because INTEGER has 4 bytes in PostgreSQL; the exception is an
-- INTEGER PRIMARY KEY, which is how SQLite spells its row id. AUTOINCREMENT: a number is never given twice, so nothing
-- that outlives a user or a token can fall to the next one.

CREATE TABLE meta (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO meta (name, value) VALUES ('revision', 0), ('checked', 0);

CREATE TABLE sealing_keys (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
);

CREATE TABLE users (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    name     TEXT    NOT NULL UNIQUE,
    password TEXT,
    admin    BOOLEAN NOT NULL,
    created  BIGINT  NOT NULL
);

CREATE TABLE tokens (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id   BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name      TEXT   NOT NULL,
    hash      BLOB   NOT NULL UNIQUE,
    scopes    TEXT   NOT NULL, -- JSON array of scopes as clients write them
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    last_used BIGINT,
    revoked   BIGINT
);
CREATE INDEX tokens_by_user ON tokens (user_id);

-- `form` says how `selector` is meant ('all', 'exact', 'glob'). It is a column of its own because a model may really be
-- called `*`: the text alone would turn the grant on that model into one on every model.
CREATE TABLE grants (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    subject_kind TEXT NOT NULL, -- 'user', 'group', 'role'
    subject      TEXT NOT NULL, -- a number, or the group's name
    kind         TEXT NOT NULL,
    form         TEXT NOT NULL,
    selector     TEXT NOT NULL,
    permission   TEXT NOT NULL,
    UNIQUE (subject_kind, subject, kind, form, selector)
);
CREATE INDEX grants_by_resource ON grants (kind, form, selector);

CREATE TABLE intents (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    effect  TEXT   NOT NULL, -- 'create', 'drop', 'rename'
    kind    TEXT   NOT NULL,
    subject TEXT   NOT NULL, -- the name or key it is about
    new     TEXT,            -- the new name of a rename
    user_id BIGINT,          -- the creator
    created BIGINT NOT NULL
);

CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      BIGINT NOT NULL,
    actor   TEXT   NOT NULL,
    token   BIGINT,
    address TEXT,
    action  TEXT   NOT NULL,
    target  TEXT   NOT NULL,
    detail  TEXT   NOT NULL
);
