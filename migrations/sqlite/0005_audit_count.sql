-- How many times the same refusal happened within a minute; one row stands for all of them.
ALTER TABLE audit ADD COLUMN count BIGINT NOT NULL DEFAULT 1;
