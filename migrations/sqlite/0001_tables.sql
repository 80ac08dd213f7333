-- The tables of drumline, on SQLite. The same tables are in migrations/postgres.
--
-- Every table but the first begins with the namespace: no statement ever speaks of two. Times and durations are in microseconds, times
-- since the Unix epoch; flags are 0 or 1; JSON is kept as text. An index leaves out rows in which one of its columns is null. Each index
-- that a selection uses ends with what makes its rows unique.
--
-- Tables of small rows are WITHOUT ROWID: the row lies in its primary key. Those with payloads are not: SQLite would keep only some
-- hundred bytes of a row in its page then, and few rows in the inner pages.

-- What is known of the file as a whole: its epoch.
CREATE TABLE meta (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
) STRICT, WITHOUT ROWID;

-- The namespaces.
CREATE TABLE heads (
    namespace TEXT NOT NULL,
    PRIMARY KEY (namespace)
) STRICT, WITHOUT ROWID;

-- What lanes keep for themselves -------------------------------------------------------------------------------------

-- Answers to requests that carried a request_id, so that a retry gets the same one.
CREATE TABLE requests (
    namespace TEXT NOT NULL,
    method TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    answer BLOB NOT NULL,
    position INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (namespace, method, request_id)
) STRICT;
CREATE INDEX requests_by_age ON requests (namespace, at, method, request_id);

-- The epochs of a log, with the first position of each: tells which cursors of earlier epochs still hold.
CREATE TABLE epochs (
    namespace TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    first_position INTEGER NOT NULL,
    first_batch INTEGER NOT NULL,
    PRIMARY KEY (namespace, epoch)
) STRICT, WITHOUT ROWID;

-- The batches that were committed, numbered without gaps. The newest of a namespace is the head of its log.
CREATE TABLE batches (
    namespace TEXT NOT NULL,
    batch INTEGER NOT NULL,
    batch_id TEXT NOT NULL,
    events INTEGER NOT NULL,
    position INTEGER NOT NULL,
    first_position INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    last_token INTEGER NOT NULL,
    at INTEGER NOT NULL,
    next_due INTEGER,
    changed TEXT,
    PRIMARY KEY (namespace, batch)
) STRICT, WITHOUT ROWID;
CREATE INDEX batches_by_age ON batches (namespace, at, batch);

-- Events -------------------------------------------------------------------------------------------------------------

-- The log.
CREATE TABLE events (
    namespace TEXT NOT NULL,
    position INTEGER NOT NULL,
    given_id TEXT,
    event_type TEXT NOT NULL,
    schema_version TEXT NOT NULL,
    source_agent TEXT NOT NULL,
    target_agent TEXT NOT NULL,
    subject TEXT NOT NULL,
    payload BLOB,
    at INTEGER NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id TEXT NOT NULL,
    priority INTEGER NOT NULL,
    expire_at INTEGER,
    traceparent TEXT NOT NULL,
    PRIMARY KEY (namespace, position)
) STRICT;
CREATE INDEX events_by_correlation ON events (namespace, correlation_id, position);

-- The ids that clients gave their events: publishing one again finds the first.
CREATE TABLE event_ids (
    namespace TEXT NOT NULL,
    event_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (namespace, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_ids_by_position ON event_ids (namespace, position, event_id);

-- Registry and sessions ----------------------------------------------------------------------------------------------

-- Registrations.
CREATE TABLE agents (
    namespace TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    agent_name TEXT NOT NULL,
    base_url TEXT NOT NULL,
    labels TEXT NOT NULL,
    capabilities TEXT NOT NULL,
    max_concurrent_tasks INTEGER NOT NULL,
    said_status TEXT NOT NULL,
    session_id TEXT,
    incarnation INTEGER NOT NULL,
    registered_at INTEGER NOT NULL,
    offline_at INTEGER,
    due_at INTEGER,
    PRIMARY KEY (namespace, agent_id)
) STRICT;
CREATE INDEX agents_by_due ON agents (namespace, due_at, agent_id) WHERE due_at IS NOT NULL;

-- What live sessions have to offer, by capability; load is null while nothing more can be assigned.
CREATE TABLE offers (
    namespace TEXT NOT NULL,
    capability TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    load INTEGER,
    last_assigned_at INTEGER NOT NULL,
    labels TEXT NOT NULL,
    PRIMARY KEY (namespace, capability, agent_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX offers_open ON offers (namespace, capability, load, last_assigned_at, agent_id) WHERE load IS NOT NULL;

-- Lives of agents.
CREATE TABLE sessions (
    namespace TEXT NOT NULL,
    session_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    life TEXT NOT NULL,
    ttl INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    connected INTEGER NOT NULL,
    polling INTEGER NOT NULL,
    poll_id TEXT,
    capacity INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    last_assigned_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    due_at INTEGER,
    PRIMARY KEY (namespace, session_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_due ON sessions (namespace, due_at, session_id) WHERE due_at IS NOT NULL;
CREATE INDEX sessions_by_life ON sessions (namespace, life, session_id);

-- When each live session was last heard of. Here only its beginning: heartbeats are kept in memory.
CREATE TABLE beats (
    namespace TEXT NOT NULL,
    session_id TEXT NOT NULL,
    home TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (namespace, session_id)
) STRICT, WITHOUT ROWID;

-- Locks --------------------------------------------------------------------------------------------------------------

-- Leases: a row is there while somebody holds the lock or waits for it.
CREATE TABLE locks (
    namespace TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    holder_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT,
    attempt_token TEXT,
    token INTEGER NOT NULL,
    ttl INTEGER NOT NULL,
    acquired_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    call_id TEXT NOT NULL,
    queue_length INTEGER NOT NULL,
    next_place INTEGER NOT NULL,
    untaken INTEGER NOT NULL,
    correlation_id TEXT NOT NULL,
    PRIMARY KEY (namespace, resource_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX locks_by_due ON locks (namespace, due_at, resource_id);
CREATE INDEX locks_by_session ON locks (namespace, session_id, resource_id) WHERE session_id IS NOT NULL;
CREATE INDEX locks_by_attempt ON locks (namespace, attempt_token, resource_id) WHERE attempt_token IS NOT NULL;

-- Who waits for a lock, in the order of place.
CREATE TABLE lock_waiters (
    namespace TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    call_id TEXT NOT NULL,
    holder_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT,
    attempt_token TEXT,
    ttl INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    queued_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    correlation_id TEXT NOT NULL,
    PRIMARY KEY (namespace, resource_id, place)
) STRICT, WITHOUT ROWID;
CREATE INDEX lock_waiters_by_due ON lock_waiters (namespace, due_at, resource_id, place);
CREATE INDEX lock_waiters_by_session ON lock_waiters (namespace, session_id, resource_id, place) WHERE session_id IS NOT NULL;
CREATE INDEX lock_waiters_by_call ON lock_waiters (namespace, call_id, resource_id, place);
CREATE INDEX lock_waiters_by_request ON lock_waiters (namespace, resource_id, request_id, place);

-- State --------------------------------------------------------------------------------------------------------------

-- Documents in their latest version; a null payload is a deleted one, whose version is never used again.
CREATE TABLE documents (
    namespace TEXT NOT NULL,
    state_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    payload BLOB,
    updated_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    position INTEGER NOT NULL,
    schema_version TEXT NOT NULL,
    retention INTEGER NOT NULL,
    first_version INTEGER NOT NULL,
    PRIMARY KEY (namespace, state_id)
) STRICT;

-- Earlier versions of documents.
CREATE TABLE document_versions (
    namespace TEXT NOT NULL,
    state_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    payload BLOB,
    updated_by TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    position INTEGER NOT NULL,
    schema_version TEXT NOT NULL,
    PRIMARY KEY (namespace, state_id, version)
) STRICT;

-- Tasks --------------------------------------------------------------------------------------------------------------

-- Tasks. queue_id is set while one waits to be assigned, session_id while a session has it.
CREATE TABLE tasks (
    namespace TEXT NOT NULL,
    task_id TEXT NOT NULL,
    capability TEXT NOT NULL,
    target_agent TEXT NOT NULL,
    requirements TEXT NOT NULL,
    excluded TEXT NOT NULL,
    priority INTEGER NOT NULL,
    correlation_id TEXT NOT NULL,
    parent_task_id TEXT NOT NULL,
    caller_agent TEXT NOT NULL,
    timeout INTEGER NOT NULL,
    accept_timeout INTEGER NOT NULL,
    progress_timeout INTEGER,
    deadline_at INTEGER,
    retry TEXT NOT NULL,
    state TEXT NOT NULL,
    queue_id TEXT,
    rank INTEGER NOT NULL,
    ready_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    failed_attempts INTEGER NOT NULL,
    attempt_token TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    session_id TEXT,
    assigned_at INTEGER,
    accepted_at INTEGER,
    progressed_at INTEGER,
    progress INTEGER NOT NULL,
    progress_message TEXT NOT NULL,
    error TEXT NOT NULL,
    workflow_id TEXT,
    origin TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at INTEGER,
    due_at INTEGER,
    traceparent TEXT NOT NULL,
    PRIMARY KEY (namespace, task_id)
) STRICT;
CREATE INDEX tasks_queued ON tasks (namespace, queue_id, rank, ready_at, task_id) WHERE queue_id IS NOT NULL;
CREATE INDEX tasks_by_session ON tasks (namespace, session_id, task_id) WHERE session_id IS NOT NULL;
CREATE INDEX tasks_by_due ON tasks (namespace, due_at, task_id) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_by_age ON tasks (namespace, created_at, task_id);
CREATE INDEX tasks_by_workflow ON tasks (namespace, workflow_id, created_at, task_id) WHERE workflow_id IS NOT NULL;

-- Inputs, results and checkpoints of tasks; inputs of workflows and of items.
CREATE TABLE payloads (
    namespace TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    role TEXT NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (namespace, owner_id, role)
) STRICT;

-- Queues in which tasks wait that the same agents could take; open_capability and target_agent while something waits.
CREATE TABLE queues (
    namespace TEXT NOT NULL,
    queue_id TEXT NOT NULL,
    capability TEXT NOT NULL,
    target_agent TEXT,
    open_capability TEXT,
    requirements TEXT NOT NULL,
    excluded TEXT NOT NULL,
    waiting INTEGER NOT NULL,
    first_rank INTEGER NOT NULL,
    first_ready_at INTEGER NOT NULL,
    first_task_id TEXT NOT NULL,
    look TEXT NOT NULL,
    PRIMARY KEY (namespace, queue_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX queues_by_capability ON queues (namespace, open_capability, first_rank, first_ready_at, first_task_id)
    WHERE open_capability IS NOT NULL;
CREATE INDEX queues_by_target ON queues (namespace, target_agent, first_rank, first_ready_at, first_task_id)
    WHERE target_agent IS NOT NULL;

-- Workflows ----------------------------------------------------------------------------------------------------------

-- Workflows.
CREATE TABLE workflows (
    namespace TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    workflow_name TEXT NOT NULL,
    workflow_type TEXT NOT NULL,
    state TEXT NOT NULL,
    result TEXT NOT NULL,
    max_concurrent INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    step_count INTEGER NOT NULL,
    open_steps INTEGER NOT NULL,
    ready_steps INTEGER NOT NULL,
    waiting_items INTEGER NOT NULL,
    stretches INTEGER NOT NULL,
    transitions INTEGER NOT NULL,
    error_log TEXT NOT NULL,
    labels TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    caller_agent TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    ended_at INTEGER,
    deadline_at INTEGER,
    due_at INTEGER,
    traceparent TEXT NOT NULL,
    PRIMARY KEY (namespace, workflow_id)
) STRICT;
CREATE INDEX workflows_by_due ON workflows (namespace, due_at, workflow_id) WHERE due_at IS NOT NULL;
CREATE INDEX workflows_by_age ON workflows (namespace, started_at, workflow_id);

-- The steps of workflows.
CREATE TABLE workflow_steps (
    namespace TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    step_id TEXT NOT NULL,
    state TEXT NOT NULL,
    open_dependencies INTEGER NOT NULL,
    skip INTEGER NOT NULL,
    open INTEGER,
    ready INTEGER,
    item_count INTEGER NOT NULL,
    expanded INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    result_bytes INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    end_position INTEGER,
    PRIMARY KEY (namespace, workflow_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX workflow_steps_by_id ON workflow_steps (namespace, workflow_id, step_id, number);
CREATE INDEX workflow_steps_open ON workflow_steps (namespace, workflow_id, open) WHERE open IS NOT NULL;
CREATE INDEX workflow_steps_ready ON workflow_steps (namespace, workflow_id, ready) WHERE ready IS NOT NULL;

-- The steps as they were given, and what the rules make of that: written once, when the workflow starts.
CREATE TABLE workflow_definitions (
    namespace TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    step TEXT NOT NULL,
    dependents TEXT NOT NULL,
    sees TEXT NOT NULL,
    PRIMARY KEY (namespace, workflow_id, number)
) STRICT;

-- Parts of lists whose items have no rows yet.
CREATE TABLE workflow_stretches (
    namespace TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    place INTEGER NOT NULL,
    items BLOB NOT NULL,
    PRIMARY KEY (namespace, workflow_id, number, place)
) STRICT;

-- The items of steps; waiting is its rank while one waits to be started, in_flight the step's number while its task is under way.
CREATE TABLE workflow_items (
    namespace TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    place INTEGER NOT NULL,
    item_key TEXT NOT NULL,
    state TEXT NOT NULL,
    waiting INTEGER,
    in_flight INTEGER,
    capability TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    input BLOB,
    task_id TEXT,
    fell_back INTEGER NOT NULL,
    result BLOB,
    error TEXT NOT NULL,
    PRIMARY KEY (namespace, workflow_id, number, place)
) STRICT;
CREATE INDEX workflow_items_waiting ON workflow_items (namespace, workflow_id, waiting, number, place) WHERE waiting IS NOT NULL;
CREATE INDEX workflow_items_in_flight ON workflow_items (namespace, workflow_id, in_flight, place) WHERE in_flight IS NOT NULL;
CREATE INDEX workflow_items_by_key ON workflow_items (namespace, workflow_id, number, item_key, place);

-- The histories of workflows.
CREATE TABLE workflow_transitions (
    namespace TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    at INTEGER NOT NULL,
    position INTEGER NOT NULL,
    kind TEXT NOT NULL,
    step_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (namespace, workflow_id, sequence)
) STRICT, WITHOUT ROWID;
