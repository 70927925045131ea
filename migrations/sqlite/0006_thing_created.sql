-- MLflow may give an ID or a name again: SQLite reuses the highest row numbers, and every name is free after a deletion.
-- A grant that was made for the older resource must not open the newer one.

ALTER TABLE grants ADD COLUMN created BIGINT;       -- when the grant was made (Unix ms); none: before this column existed
ALTER TABLE grants ADD COLUMN thing_created BIGINT; -- when MLflow made the resource (Unix ms); none: not known yet

-- Up to which creation time (Unix ms) MLflow's experiments and registered models were compared with the grants.
INSERT INTO meta (name, value) VALUES ('compared_experiment', 0), ('compared_registered_model', 0);
