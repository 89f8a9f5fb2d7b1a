"""`chat-sessions recover`: puts what Kafka may have lost back into it."""

from aiokafka.errors import KafkaConnectionError, KafkaError

from services.commands.target import CommandError
from services.database.engine import build_engine
from services.runtime.kafka import NotAcknowledged, build_producer
from services.runtime.settings import KafkaSettings, PostgresSettings
from services.session_tracker.faults import PostgresAway, postgres_faults
from services.session_tracker.recovery import recover


async def send_again(kafka: KafkaSettings, postgres: PostgresSettings) -> int:
    """Publish the messages of ACTIVE sessions again; gives how many. CommandError if Kafka or PostgreSQL is away."""
    producer = build_producer(kafka)
    engine = build_engine(postgres.database_url.get_secret_value(), pool_size=1)
    try:
        with postgres_faults():
            await producer.start()
            return await recover(engine, producer)
    except KafkaConnectionError as error:
        raise CommandError(
            f"Kafka at {kafka.kafka_bootstrap_servers} cannot be reached: start it, or check KAFKA_BOOTSTRAP_SERVERS."
        ) from error
    except (KafkaError, NotAcknowledged) as error:
        raise CommandError(f"Kafka does not take the messages ({error}): check KAFKA_BOOTSTRAP_SERVERS.") from error
    except PostgresAway as error:
        raise CommandError(f"{error} Check DATABASE_URL.") from error
    finally:
        await producer.stop()
        await engine.dispose()
