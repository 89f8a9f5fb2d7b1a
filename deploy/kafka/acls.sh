#!/bin/sh
# Says who may read and write which topic. Write access to the topics is full trust: whoever may write
# chat.messages.v1 speaks for every user, whoever may write chat.results.v1 for every persona.
#
#   KAFKA_ACLS="kafka-acls.sh --bootstrap-server kafka:9092 --command-config admin.properties" sh acls.sh
#
# Brokers need an authorizer, and allow.everyone.if.no.acl.found=false. Safe to repeat. Principals are named after the
# processes; PRINCIPAL_PREFIX is put before each, e.g. "User:chat-" for the SCRAM user `chat-gateway`.
set -eu
: "${KAFKA_ACLS:?Set it to the command that reaches your brokers as an administrator, see the top of this file.}"
prefix=${PRINCIPAL_PREFIX:-User:}

allow() { # principal, then arguments of kafka-acls
    principal=$prefix$1
    shift
    $KAFKA_ACLS --add --force --allow-principal "$principal" "$@"
}
reads() { allow "$1" --operation Read --topic "$2"; }
writes() { allow "$1" --operation Write --topic "$2"; }
joins() { allow "$1" --operation Read --group "$2"; }

# Creates the topics; touches no record.
allow migrate --operation Create --operation Describe --topic chat. --resource-pattern-type prefixed

# Publishes for users, and for personas that reply by callback; asks for sweeps, and follows what was committed,
# without a group.
writes gateway chat.messages.v1
writes gateway chat.results.v1
writes gateway chat.control.v1
writes gateway chat.sweeps.v1
reads gateway chat.sessions.v1
reads gateway chat.deltas.v1

# Joins its group for messages alone; results and control of the same partitions it reads beside it.
joins dispatcher webhook-dispatcher
reads dispatcher chat.messages.v1
reads dispatcher chat.results.v1
reads dispatcher chat.control.v1
writes dispatcher chat.results.v1
writes dispatcher chat.deltas.v1
writes dispatcher chat.messages.v1.webhook-dispatcher.dlq

# Folds everything, and runs the sweeps in a group of their own. It publishes messages again that Kafka lost before
# the dispatchers, whose offsets it looks at, had come to them.
joins tracker session-tracker
joins tracker session-sweeps
reads tracker chat.messages.v1
reads tracker chat.results.v1
reads tracker chat.control.v1
reads tracker chat.sweeps.v1
writes tracker chat.sessions.v1
writes tracker chat.messages.v1
allow tracker --operation Describe --group webhook-dispatcher
writes tracker chat.messages.v1.session-tracker.dlq
writes tracker chat.results.v1.session-tracker.dlq
writes tracker chat.control.v1.session-tracker.dlq
writes tracker chat.sweeps.v1.session-sweeps.dlq

writes sweeper chat.sweeps.v1

# A person with `chat-sessions dead-letters`, `recover` and `doctor`: reads dead letters, and publishes records
# again.
allow operator --operation Read --operation Describe --operation DescribeConfigs --topic chat. \
  --resource-pattern-type prefixed
for group in webhook-dispatcher session-tracker session-sweeps; do
  allow operator --operation Describe --group "$group"
done
writes operator chat.messages.v1
writes operator chat.results.v1
writes operator chat.control.v1
writes operator chat.sweeps.v1

# Other services that publish messages themselves: one principal each, and this alone.
#   writes my-service chat.messages.v1
