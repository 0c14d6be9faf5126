"""An app for the tests with a browser: values that are long forms. It has no migrations: `migrate --run-syncdb`."""
