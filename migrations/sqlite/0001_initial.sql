-- Times are Unix milliseconds. Booleans are 0 or 1. Statements that use these tables are in src/store.

CREATE TABLE users (
    id BIGINT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    password TEXT,
    admin BOOLEAN NOT NULL,
    created BIGINT NOT NULL
);

CREATE TABLE tokens (
    id BIGINT PRIMARY KEY,
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    last_used BIGINT,
    revoked BIGINT
);
CREATE INDEX tokens_of_user ON tokens (user_id);

-- subject: `user:ID`, `group:NAME`, `role:ID`
CREATE TABLE grants (
    subject TEXT NOT NULL,
    kind TEXT NOT NULL,
    selector TEXT NOT NULL,
    permission TEXT NOT NULL,
    PRIMARY KEY (subject, kind, selector)
);
CREATE INDEX grants_on ON grants (kind, selector);

-- What was begun in MLflow and not yet finished here.
CREATE TABLE intents (
    id BIGINT PRIMARY KEY,
    effect TEXT NOT NULL,
    created BIGINT NOT NULL
);

CREATE TABLE audit (
    id BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    token_id BIGINT,
    address TEXT,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX audit_at ON audit (at);

-- One row each: `revision` (raised by every change), `next_id` (for every table above), `sealing_key` (hex).
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    text TEXT NOT NULL
);
INSERT INTO settings (name, number, text) VALUES ('revision', 0, '');
INSERT INTO settings (name, number, text) VALUES ('next_id', 1, '');
