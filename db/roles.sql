-- The roles of a database, neither of them a superuser. A superuser runs this once with psql, before the first migration:
--   CACHINGAPI_OWNER_PASSWORD=... CACHINGAPI_SERVICE_PASSWORD=... psql -d cachingapi -f db/roles.sql
-- cachingapi_owner owns the schema and migrates it. The service uses cachingapi_service: it changes rows (see grants.sql) and reads
-- their changes by logical replication, which needs REPLICATION. Physical replication would also need a line in pg_hba.conf.
\set ON_ERROR_STOP on
\getenv owner_password CACHINGAPI_OWNER_PASSWORD
\getenv service_password CACHINGAPI_SERVICE_PASSWORD

CREATE ROLE cachingapi_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE cachingapi_service LOGIN REPLICATION PASSWORD :'service_password';

ALTER DATABASE :"DBNAME" OWNER TO cachingapi_owner;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO cachingapi_service;
-- From PostgreSQL 15 on, PUBLIC has no CREATE on this schema, and the owner of the database has it.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE ON SCHEMA public TO cachingapi_owner;
