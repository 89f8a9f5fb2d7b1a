"""What makes `audit_log` a table that is only ever added to: triggers that refuse everything else.

Rows are protected in every partition, for PostgreSQL gives each a copy of its parent's row triggers. TRUNCATE has
statement triggers only, which partitions do not inherit: `audit_partitions` gives each its own. Dropping a whole
partition is what retention does, and remains possible.
"""

FUNCTION = """
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is only ever added to' USING ERRCODE = 'insufficient_privilege';
END $$
"""
NO_UPDATE_OR_DELETE = """
CREATE TRIGGER audit_log_rows_stay BEFORE UPDATE OR DELETE ON audit_log
FOR EACH ROW EXECUTE FUNCTION refuse_audit_change()
"""
NO_TRUNCATE = """
CREATE TRIGGER {table}_is_not_emptied BEFORE TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()
"""
AFTER_CREATE = (FUNCTION, NO_UPDATE_OR_DELETE, NO_TRUNCATE.format(table="audit_log"))
AFTER_DROP = ("DROP FUNCTION refuse_audit_change()",)
