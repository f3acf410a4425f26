-- Users: the source of the cache.
-- Ids are UUIDv7, so the primary key alone orders the list (newest first) and serves its pages.
CREATE TABLE users (
    id            uuid        PRIMARY KEY,
    email         text        NOT NULL,
    email_key     text        NOT NULL,  -- the normalised address, which the service compares
    display_name  text        NOT NULL,
    role          text        NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'admin')),
    password_hash text        NOT NULL,
    version       bigint      NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    CONSTRAINT users_email_key UNIQUE (email_key)
);
