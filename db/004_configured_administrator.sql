-- The normalised e-mail address by which the configuration (Admin:Email) has made this user an administrator. When the configuration
-- names another one, this user loses the role.
ALTER TABLE users ADD COLUMN configured_as text;
CREATE UNIQUE INDEX users_configured_as ON users (configured_as) WHERE configured_as IS NOT NULL;
