"""The ledger's tables, version by version. A version that was released is never edited."""

from __future__ import annotations

APPLICATION_ID = 0x72_75_6E_63
"""Tells a ledger from the databases of other programs: "runc"."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, spec BLOB NOT NULL, state TEXT NOT NULL,
        target TEXT NOT NULL, cloud TEXT NOT NULL, folder TEXT, store TEXT NOT NULL,
        project TEXT NOT NULL, user TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_time ON jobs (created DESC);
    CREATE TABLE job_events (
        job TEXT NOT NULL REFERENCES jobs (id), at INTEGER NOT NULL, attempt INTEGER NOT NULL,
        state TEXT NOT NULL, cause TEXT NOT NULL, cost TEXT
    ) STRICT;
    CREATE INDEX job_events_by_job ON job_events (job);
    CREATE TABLE attempts (
        job TEXT NOT NULL REFERENCES jobs (id), number INTEGER NOT NULL, state TEXT NOT NULL,
        created INTEGER NOT NULL, instance_id TEXT, offer BLOB, started INTEGER, ended INTEGER,
        cause TEXT, message TEXT, resumed_from TEXT, resumed_step INTEGER, last_step INTEGER,
        committed_name TEXT, committed_step INTEGER, committed_seconds REAL, exit_code INTEGER, cost TEXT,
        PRIMARY KEY (job, number)
    ) STRICT;
    CREATE TABLE supervisors (
        job TEXT PRIMARY KEY REFERENCES jobs (id), owner TEXT NOT NULL, until INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE resources (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, cloud TEXT NOT NULL, region TEXT NOT NULL,
        zone TEXT NOT NULL, name TEXT NOT NULL, project TEXT NOT NULL, user TEXT NOT NULL, job TEXT,
        attempt INTEGER, facts BLOB NOT NULL, created INTEGER NOT NULL, ended INTEGER, ended_by TEXT
    ) STRICT;
    CREATE INDEX resources_by_job ON resources (job);
    CREATE TABLE intervals (
        number INTEGER PRIMARY KEY, resource TEXT NOT NULL REFERENCES resources (id), state TEXT NOT NULL,
        start INTEGER NOT NULL, "end" INTEGER, billable INTEGER NOT NULL, usd_per_hour TEXT,
        price_source TEXT, price_as_of INTEGER, pool TEXT
    ) STRICT;
    CREATE UNIQUE INDEX one_open_interval ON intervals (resource) WHERE "end" IS NULL;
    CREATE INDEX intervals_by_resource ON intervals (resource, start);
    CREATE TRIGGER closed_intervals_stay BEFORE UPDATE ON intervals WHEN OLD."end" IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'a closed interval is never altered'); END;
    CREATE TRIGGER intervals_are_kept BEFORE DELETE ON intervals
    BEGIN SELECT RAISE(ABORT, 'intervals are append-only'); END;
    CREATE TABLE price_points (
        pool TEXT NOT NULL, at INTEGER NOT NULL, usd_per_hour TEXT NOT NULL, source TEXT NOT NULL,
        PRIMARY KEY (pool, at)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE transactions (
        id TEXT PRIMARY KEY, operation TEXT NOT NULL, subject TEXT NOT NULL, payload BLOB NOT NULL,
        pid INTEGER NOT NULL, process_started REAL NOT NULL, host TEXT NOT NULL,
        begun INTEGER NOT NULL, outcome TEXT
    ) STRICT;
    CREATE TABLE steps (
        tx TEXT NOT NULL REFERENCES transactions (id), number INTEGER NOT NULL, name TEXT NOT NULL,
        token TEXT NOT NULL, request BLOB NOT NULL, outcome TEXT, result BLOB, error TEXT,
        PRIMARY KEY (tx, number)
    ) STRICT;
    """,
    """
    CREATE TABLE verdicts (
        id INTEGER PRIMARY KEY, at INTEGER NOT NULL, action TEXT NOT NULL, resource TEXT NOT NULL,
        allowed INTEGER NOT NULL, forced INTEGER NOT NULL, findings BLOB NOT NULL, user TEXT NOT NULL
    ) STRICT;
    CREATE INDEX verdicts_by_resource ON verdicts (resource, id);
    CREATE TRIGGER verdicts_stay BEFORE UPDATE ON verdicts
    BEGIN SELECT RAISE(ABORT, 'verdicts are append-only'); END;
    CREATE TRIGGER verdicts_are_kept BEFORE DELETE ON verdicts
    BEGIN SELECT RAISE(ABORT, 'verdicts are append-only'); END;
    """,
    """
    ALTER TABLE resources ADD COLUMN seen INTEGER;
    CREATE INDEX resources_that_live ON resources (cloud, region) WHERE ended IS NULL;
    """,
    """
    CREATE TABLE staged (
        number INTEGER PRIMARY KEY, resource TEXT NOT NULL, cloud TEXT NOT NULL, region TEXT NOT NULL,
        location TEXT NOT NULL, version TEXT NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX staged_by_resource ON staged (resource, number);
    CREATE TRIGGER staged_rows_stay BEFORE UPDATE ON staged
    BEGIN SELECT RAISE(ABORT, 'what was staged is append-only'); END;
    """,
    """
    ALTER TABLE jobs ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN adopted_at INTEGER;
    ALTER TABLE jobs ADD COLUMN seal TEXT NOT NULL DEFAULT '';
    UPDATE jobs SET number = rowid;
    CREATE UNIQUE INDEX jobs_by_number ON jobs (number);
    DROP INDEX jobs_by_time;
    """,
    # Sums over rows (`ledger.sums`), which may be set in rows whose content stays.
    """
    ALTER TABLE jobs ADD COLUMN sum INTEGER;
    ALTER TABLE job_events ADD COLUMN sum INTEGER;
    ALTER TABLE attempts ADD COLUMN sum INTEGER;
    ALTER TABLE resources ADD COLUMN sum INTEGER;
    ALTER TABLE intervals ADD COLUMN sum INTEGER;
    ALTER TABLE price_points ADD COLUMN sum INTEGER;
    ALTER TABLE transactions ADD COLUMN sum INTEGER;
    ALTER TABLE steps ADD COLUMN sum INTEGER;
    ALTER TABLE verdicts ADD COLUMN sum INTEGER;
    ALTER TABLE staged ADD COLUMN sum INTEGER;
    DROP TRIGGER closed_intervals_stay;
    CREATE TRIGGER closed_intervals_stay BEFORE UPDATE OF
        number, resource, state, start, "end", billable, usd_per_hour, price_source, price_as_of, pool
    ON intervals WHEN OLD."end" IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'a closed interval is never altered'); END;
    DROP TRIGGER verdicts_stay;
    CREATE TRIGGER verdicts_stay BEFORE UPDATE OF
        id, at, action, resource, allowed, forced, findings, user
    ON verdicts
    BEGIN SELECT RAISE(ABORT, 'verdicts are append-only'); END;
    DROP TRIGGER staged_rows_stay;
    CREATE TRIGGER staged_rows_stay BEFORE UPDATE OF
        number, resource, cloud, region, location, version, files, bytes, at
    ON staged
    BEGIN SELECT RAISE(ABORT, 'what was staged is append-only'); END;
    """,
    """
    ALTER TABLE attempts ADD COLUMN began_step INTEGER;
    ALTER TABLE attempts ADD COLUMN kept_files INTEGER;
    ALTER TABLE attempts ADD COLUMN kept_bytes INTEGER;
    """,
    """
    ALTER TABLE attempts ADD COLUMN silence TEXT;
    """,
)
