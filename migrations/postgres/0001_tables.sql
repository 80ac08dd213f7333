-- The tables of drumline, on Postgres. The same tables are in migrations/sqlite.
--
-- Every table but the first begins with the namespace: no statement ever speaks of two. Text is compared bytewise, as SQLite and the
-- server do. Times and durations are in microseconds, times since the Unix epoch; flags are 0 or 1; JSON is kept as text. An index
-- leaves out rows in which one of its columns is null. Each index that a selection uses ends with what makes its rows unique.
--
-- `WHERE namespace <> ''` holds for every row. It keeps an index out of the planner's hands but for statements that repeat it: while a
-- table is empty all of its indexes cost the same, and a plan that was made then would look up keys in the wrong one for long.
--
-- Rows that change often get room in their page (fillfactor), so that a new version needs no new index entries where no indexed
-- column changed, and are vacuumed early.

-- What is known of the database as a whole: its epoch, and on Postgres what the epoch was raised by.
CREATE TABLE meta (
    name text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    PRIMARY KEY (name)
);

-- The namespaces; whoever has the row locked decides for the namespace. The row itself never changes.
CREATE TABLE heads (
    namespace text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace)
);

-- What lanes keep for themselves -------------------------------------------------------------------------------------

-- Answers to requests that carried a request_id, so that a retry gets the same one.
CREATE TABLE requests (
    namespace text COLLATE "C" NOT NULL,
    method text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    position bigint NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (namespace, method, request_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX requests_by_age ON requests (namespace, at, method, request_id) WHERE namespace <> '';

-- The epochs of a log, with the first position of each: tells which cursors of earlier epochs still hold.
CREATE TABLE epochs (
    namespace text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    first_position bigint NOT NULL,
    first_batch bigint NOT NULL,
    PRIMARY KEY (namespace, epoch)
);

-- The batches that were committed, numbered without gaps. The newest of a namespace is the head of its log. Batches are only ever added
-- (and the old deleted), so a long snapshot beside them makes nobody walk past dead rows. `batch_id` tells a commit that was not
-- answered from another's; `changed` names the agents and sessions that the batch changed, for other replicas.
CREATE TABLE batches (
    namespace text COLLATE "C" NOT NULL,
    batch bigint NOT NULL,
    batch_id text COLLATE "C" NOT NULL,
    events bigint NOT NULL,
    position bigint NOT NULL,
    first_position bigint NOT NULL,
    epoch bigint NOT NULL,
    last_token bigint NOT NULL,
    at bigint NOT NULL,
    next_due bigint,
    changed text COLLATE "C",
    PRIMARY KEY (namespace, batch)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX batches_by_age ON batches (namespace, at, batch) WHERE namespace <> '';

-- Events -------------------------------------------------------------------------------------------------------------

-- The log.
CREATE TABLE events (
    namespace text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    given_id text COLLATE "C",
    event_type text COLLATE "C" NOT NULL,
    schema_version text COLLATE "C" NOT NULL,
    source_agent text COLLATE "C" NOT NULL,
    target_agent text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    payload bytea,
    at bigint NOT NULL,
    correlation_id text COLLATE "C" NOT NULL,
    causation_id text COLLATE "C" NOT NULL,
    priority bigint NOT NULL,
    expire_at bigint,
    traceparent text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, position)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX events_by_correlation ON events (namespace, correlation_id, position) WHERE namespace <> '';

-- The ids that clients gave their events: publishing one again finds the first.
CREATE TABLE event_ids (
    namespace text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (namespace, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX event_ids_by_position ON event_ids (namespace, position, event_id) WHERE namespace <> '';

-- Registry and sessions ----------------------------------------------------------------------------------------------

-- Registrations.
CREATE TABLE agents (
    namespace text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL,
    agent_name text COLLATE "C" NOT NULL,
    base_url text COLLATE "C" NOT NULL,
    labels text COLLATE "C" NOT NULL,
    capabilities text COLLATE "C" NOT NULL,
    max_concurrent_tasks bigint NOT NULL,
    said_status text COLLATE "C" NOT NULL,
    session_id text COLLATE "C",
    incarnation bigint NOT NULL,
    registered_at bigint NOT NULL,
    offline_at bigint,
    due_at bigint,
    PRIMARY KEY (namespace, agent_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX agents_by_due ON agents (namespace, due_at, agent_id) WHERE namespace <> '' AND due_at IS NOT NULL;

-- What live sessions have to offer, by capability; load is null while nothing more can be assigned.
CREATE TABLE offers (
    namespace text COLLATE "C" NOT NULL,
    capability text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    load bigint,
    last_assigned_at bigint NOT NULL,
    labels text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, capability, agent_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX offers_open ON offers (namespace, capability, load, last_assigned_at, agent_id) WHERE namespace <> '' AND load IS NOT NULL;

-- Lives of agents.
CREATE TABLE sessions (
    namespace text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL,
    incarnation bigint NOT NULL,
    life text COLLATE "C" NOT NULL,
    ttl bigint NOT NULL,
    generation bigint NOT NULL,
    connected bigint NOT NULL,
    polling bigint NOT NULL,
    poll_id text COLLATE "C",
    capacity bigint NOT NULL,
    in_flight bigint NOT NULL,
    last_assigned_at bigint NOT NULL,
    started_at bigint NOT NULL,
    ended_at bigint,
    due_at bigint,
    PRIMARY KEY (namespace, session_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX sessions_by_due ON sessions (namespace, due_at, session_id) WHERE namespace <> '' AND due_at IS NOT NULL;
CREATE INDEX sessions_by_life ON sessions (namespace, life, session_id) WHERE namespace <> '';

-- When each live session was last heard of, by the store's clock, and by which replica. Written in bulk beside the batches; nothing that
-- changes is indexed, so a new version of a row stays in its page.
CREATE TABLE beats (
    namespace text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    home text COLLATE "C" NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (namespace, session_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Locks --------------------------------------------------------------------------------------------------------------

-- Leases: a row is there while somebody holds the lock or waits for it.
CREATE TABLE locks (
    namespace text COLLATE "C" NOT NULL,
    resource_id text COLLATE "C" NOT NULL,
    holder_id text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C",
    attempt_token text COLLATE "C",
    token bigint NOT NULL,
    ttl bigint NOT NULL,
    acquired_at bigint NOT NULL,
    due_at bigint NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    call_id text COLLATE "C" NOT NULL,
    queue_length bigint NOT NULL,
    next_place bigint NOT NULL,
    untaken bigint NOT NULL,
    correlation_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, resource_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX locks_by_due ON locks (namespace, due_at, resource_id) WHERE namespace <> '';
CREATE INDEX locks_by_session ON locks (namespace, session_id, resource_id) WHERE namespace <> '' AND session_id IS NOT NULL;
CREATE INDEX locks_by_attempt ON locks (namespace, attempt_token, resource_id) WHERE namespace <> '' AND attempt_token IS NOT NULL;

-- Who waits for a lock, in the order of place.
CREATE TABLE lock_waiters (
    namespace text COLLATE "C" NOT NULL,
    resource_id text COLLATE "C" NOT NULL,
    place bigint NOT NULL,
    call_id text COLLATE "C" NOT NULL,
    holder_id text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C",
    attempt_token text COLLATE "C",
    ttl bigint NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    queued_at bigint NOT NULL,
    due_at bigint NOT NULL,
    correlation_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, resource_id, place)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX lock_waiters_by_due ON lock_waiters (namespace, due_at, resource_id, place) WHERE namespace <> '';
CREATE INDEX lock_waiters_by_session ON lock_waiters (namespace, session_id, resource_id, place) WHERE namespace <> '' AND session_id IS NOT NULL;
CREATE INDEX lock_waiters_by_call ON lock_waiters (namespace, call_id, resource_id, place) WHERE namespace <> '';
CREATE INDEX lock_waiters_by_request ON lock_waiters (namespace, resource_id, request_id, place) WHERE namespace <> '';

-- State --------------------------------------------------------------------------------------------------------------

-- Documents in their latest version; a null payload is a deleted one, whose version is never used again.
CREATE TABLE documents (
    namespace text COLLATE "C" NOT NULL,
    state_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    payload bytea,
    updated_by text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    position bigint NOT NULL,
    schema_version text COLLATE "C" NOT NULL,
    retention bigint NOT NULL,
    first_version bigint NOT NULL,
    PRIMARY KEY (namespace, state_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Earlier versions of documents.
CREATE TABLE document_versions (
    namespace text COLLATE "C" NOT NULL,
    state_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    payload bytea,
    updated_by text COLLATE "C" NOT NULL,
    updated_at bigint NOT NULL,
    position bigint NOT NULL,
    schema_version text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, state_id, version)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Tasks --------------------------------------------------------------------------------------------------------------

-- Tasks. queue_id is set while one waits to be assigned, session_id while a session has it.
CREATE TABLE tasks (
    namespace text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    capability text COLLATE "C" NOT NULL,
    target_agent text COLLATE "C" NOT NULL,
    requirements text COLLATE "C" NOT NULL,
    excluded text COLLATE "C" NOT NULL,
    priority bigint NOT NULL,
    correlation_id text COLLATE "C" NOT NULL,
    parent_task_id text COLLATE "C" NOT NULL,
    caller_agent text COLLATE "C" NOT NULL,
    timeout bigint NOT NULL,
    accept_timeout bigint NOT NULL,
    progress_timeout bigint,
    deadline_at bigint,
    retry text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    queue_id text COLLATE "C",
    rank bigint NOT NULL,
    ready_at bigint NOT NULL,
    attempt bigint NOT NULL,
    failed_attempts bigint NOT NULL,
    attempt_token text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C",
    assigned_at bigint,
    accepted_at bigint,
    progressed_at bigint,
    progress bigint NOT NULL,
    progress_message text COLLATE "C" NOT NULL,
    error text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C",
    origin text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    ended_at bigint,
    due_at bigint,
    traceparent text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, task_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX tasks_queued ON tasks (namespace, queue_id, rank, ready_at, task_id) WHERE namespace <> '' AND queue_id IS NOT NULL;
CREATE INDEX tasks_by_session ON tasks (namespace, session_id, task_id) WHERE namespace <> '' AND session_id IS NOT NULL;
CREATE INDEX tasks_by_due ON tasks (namespace, due_at, task_id) WHERE namespace <> '' AND due_at IS NOT NULL;
CREATE INDEX tasks_by_age ON tasks (namespace, created_at, task_id) WHERE namespace <> '';
CREATE INDEX tasks_by_workflow ON tasks (namespace, workflow_id, created_at, task_id) WHERE namespace <> '' AND workflow_id IS NOT NULL;

-- Inputs, results and checkpoints of tasks; inputs of workflows and of items.
CREATE TABLE payloads (
    namespace text COLLATE "C" NOT NULL,
    owner_id text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (namespace, owner_id, role)
);

-- Queues in which tasks wait that the same agents could take; open_capability and target_agent while something waits.
CREATE TABLE queues (
    namespace text COLLATE "C" NOT NULL,
    queue_id text COLLATE "C" NOT NULL,
    capability text COLLATE "C" NOT NULL,
    target_agent text COLLATE "C",
    open_capability text COLLATE "C",
    requirements text COLLATE "C" NOT NULL,
    excluded text COLLATE "C" NOT NULL,
    waiting bigint NOT NULL,
    first_rank bigint NOT NULL,
    first_ready_at bigint NOT NULL,
    first_task_id text COLLATE "C" NOT NULL,
    look text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, queue_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queues_by_capability ON queues (namespace, open_capability, first_rank, first_ready_at, first_task_id) WHERE namespace <> '' AND open_capability IS NOT NULL;
CREATE INDEX queues_by_target ON queues (namespace, target_agent, first_rank, first_ready_at, first_task_id) WHERE namespace <> '' AND target_agent IS NOT NULL;

-- Workflows ----------------------------------------------------------------------------------------------------------

-- Workflows.
CREATE TABLE workflows (
    namespace text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    workflow_name text COLLATE "C" NOT NULL,
    workflow_type text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    result text COLLATE "C" NOT NULL,
    max_concurrent bigint NOT NULL,
    in_flight bigint NOT NULL,
    step_count bigint NOT NULL,
    open_steps bigint NOT NULL,
    ready_steps bigint NOT NULL,
    waiting_items bigint NOT NULL,
    stretches bigint NOT NULL,
    transitions bigint NOT NULL,
    error_log text COLLATE "C" NOT NULL,
    labels text COLLATE "C" NOT NULL,
    correlation_id text COLLATE "C" NOT NULL,
    caller_agent text COLLATE "C" NOT NULL,
    started_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    ended_at bigint,
    deadline_at bigint,
    due_at bigint,
    traceparent text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, workflow_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX workflows_by_due ON workflows (namespace, due_at, workflow_id) WHERE namespace <> '' AND due_at IS NOT NULL;
CREATE INDEX workflows_by_age ON workflows (namespace, started_at, workflow_id) WHERE namespace <> '';

-- The steps of workflows.
CREATE TABLE workflow_steps (
    namespace text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    step_id text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    open_dependencies bigint NOT NULL,
    skip bigint NOT NULL,
    open bigint,
    ready bigint,
    item_count bigint NOT NULL,
    expanded bigint NOT NULL,
    in_flight bigint NOT NULL,
    completed bigint NOT NULL,
    failed bigint NOT NULL,
    result_bytes bigint NOT NULL,
    started_at bigint,
    ended_at bigint,
    end_position bigint,
    PRIMARY KEY (namespace, workflow_id, number)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX workflow_steps_by_id ON workflow_steps (namespace, workflow_id, step_id, number) WHERE namespace <> '';
CREATE INDEX workflow_steps_open ON workflow_steps (namespace, workflow_id, open) WHERE namespace <> '' AND open IS NOT NULL;
CREATE INDEX workflow_steps_ready ON workflow_steps (namespace, workflow_id, ready) WHERE namespace <> '' AND ready IS NOT NULL;

-- The steps as they were given, and what the rules make of that: written once, when the workflow starts.
CREATE TABLE workflow_definitions (
    namespace text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    step text COLLATE "C" NOT NULL,
    dependents text COLLATE "C" NOT NULL,
    sees text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, workflow_id, number)
);

-- Parts of lists whose items have no rows yet.
CREATE TABLE workflow_stretches (
    namespace text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    place bigint NOT NULL,
    items bytea NOT NULL,
    PRIMARY KEY (namespace, workflow_id, number, place)
);

-- The items of steps; waiting is its rank while one waits to be started, in_flight the step's number while its task is under way.
CREATE TABLE workflow_items (
    namespace text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    place bigint NOT NULL,
    item_key text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    waiting bigint,
    in_flight bigint,
    capability text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL,
    input bytea,
    task_id text COLLATE "C",
    fell_back bigint NOT NULL,
    result bytea,
    error text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, workflow_id, number, place)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX workflow_items_waiting ON workflow_items (namespace, workflow_id, waiting, number, place) WHERE namespace <> '' AND waiting IS NOT NULL;
CREATE INDEX workflow_items_in_flight ON workflow_items (namespace, workflow_id, in_flight, place) WHERE namespace <> '' AND in_flight IS NOT NULL;
CREATE INDEX workflow_items_by_key ON workflow_items (namespace, workflow_id, number, item_key, place) WHERE namespace <> '';

-- The histories of workflows.
CREATE TABLE workflow_transitions (
    namespace text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    at bigint NOT NULL,
    position bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    step_id text COLLATE "C" NOT NULL,
    place bigint NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    detail text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, workflow_id, sequence)
);
