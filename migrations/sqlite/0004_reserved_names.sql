-- Names of accounts that were deleted or renamed: they stay their identity's until an administrator releases them, because
-- policies go by names.
CREATE TABLE reserved_names (
    name    TEXT   NOT NULL PRIMARY KEY, -- in lower case
    issuer  TEXT,                        -- none: an account of the proxy alone, which nobody can be again
    subject TEXT,
    since   BIGINT NOT NULL
);
