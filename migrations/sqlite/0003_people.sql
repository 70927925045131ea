-- People from an identity provider are users with an issuer and a subject, which is what they are known by; the name is
-- what is shown. `groups` (a JSON array), `group_admin` and `allowed` are as the provider last said, at `seen`.

ALTER TABLE users ADD COLUMN issuer TEXT;
ALTER TABLE users ADD COLUMN subject TEXT;
ALTER TABLE users ADD COLUMN groups TEXT NOT NULL DEFAULT '[]';
ALTER TABLE users ADD COLUMN group_admin BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE users ADD COLUMN allowed BOOLEAN NOT NULL DEFAULT TRUE;
ALTER TABLE users ADD COLUMN seen BIGINT;
ALTER TABLE users ADD COLUMN suspended BIGINT; -- since when access tokens rest
CREATE UNIQUE INDEX users_by_identity ON users (issuer, subject);

CREATE TABLE sessions (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    hash          BLOB   NOT NULL UNIQUE, -- of the cookie's secret
    user_id       BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    provider      TEXT,                   -- the configuration's name for it; none: signed in with a password
    issuer        TEXT,
    subject       TEXT,
    sid           TEXT,                   -- the provider's session, which several of ours may share
    tokens        TEXT   NOT NULL,        -- sealed
    created       BIGINT NOT NULL,
    last_used     BIGINT NOT NULL,
    expires       BIGINT NOT NULL,
    refresh_at    BIGINT,                 -- when the provider is asked again; none: never
    refresh_lease BIGINT NOT NULL DEFAULT 0, -- until when somebody is asking
    failures      BIGINT NOT NULL DEFAULT 0,
    address       TEXT   NOT NULL,
    agent         TEXT   NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE INDEX sessions_by_sid ON sessions (issuer, sid);
CREATE INDEX sessions_by_refresh ON sessions (refresh_at);

-- Logout tokens that were used, until they would have expired.
CREATE TABLE logout_tokens (
    issuer  TEXT   NOT NULL,
    jti     TEXT   NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (issuer, jti)
);
