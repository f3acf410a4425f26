-- The rights of the service's role (see roles.sql), if that role exists. Each migration ends with this script.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'cachingapi_service') THEN
        GRANT USAGE ON SCHEMA public TO cachingapi_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON users TO cachingapi_service;
        -- The service compares the migrations of the database with those that it needs.
        GRANT SELECT ON schemaversions TO cachingapi_service;
    END IF;
END $$;
