"""The ledger: connection, schema, every query, migrations and the streaming export."""
