"""`chat-sessions up`: the whole system on this machine, until it is told to stop."""

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, NoReturn

import httpx
from rich.console import Console

from services.local.data_directory import DataDirectory, default_data_directory
from services.local.engines import Engines
from services.local.greeting import greeting
from services.local.kafka_artifacts import KafkaArtifacts, kafka_artifacts
from services.local.n8n_answers import CALLBACK_SECONDS, PERSONAS
from services.local.persona_seeds import seed_personas, wanted_personas
from services.local.processes import (
    free_port,
    run_to_end,
    start_process,
)
from services.local.reaper import Reaper
from services.local.service_health import (
    NotReadyError,
    wait_until_folded,
    what_is_not_ready,
    why_silent,
)
from services.local.stack_options import (
    Addresses,
    StackOptions,
    n8n_program,
    service_command,
    service_environment,
    service_names,
    service_program,
)
from services.local.supervisor import Program, Supervisor
from services.local.typed import typed_command
from services.runtime.tokens import token_for

_READY_SECONDS = 60.0
_DRAIN_SECONDS = 10.0
_FOLD_SECONDS = 5.0
_LOOK_SECONDS = 0.1
_TOKEN_LIFETIME = timedelta(days=30)


def show(console: Console, text: str) -> None:
    """Print text as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class Stack:
    """The engines and services of one `up`."""

    def __init__(self, options: StackOptions, directory: DataDirectory, reaper: Reaper, console: Console) -> None:
        self._options = options
        self._directory = directory
        self._reaper = reaper
        self._console = console
        self._engines = Engines(directory, reaper, self._say)
        self._supervisor = Supervisor(directory.logs, reaper, self._say)
        self._services: list[Program] = []

    def start(self) -> None:
        """Start everything and wait until it is ready; then stack.json is there and the addresses are shown."""
        began = time.monotonic()
        artifacts = self._kafka_artifacts()
        n8n_port = self._directory.n8n_port()
        if self._options.n8n is None:
            self._supervisor.start(n8n_program(n8n_port, os.environ))
        self._addresses = self._start_engines(n8n_port, artifacts)
        self._environment = service_environment(
            os.environ,
            self._addresses,
            broker_settings=self._engines.broker_settings,
            jwt_secret=self._directory.jwt_secret(),
            persona_secrets_key=self._directory.persona_secrets_key(),
            user_hash_key=self._directory.user_hash_key(),
        )
        self._tokens = {
            "userToken": self._token("alice", admin=False),
            "adminToken": self._token("admin", admin=True),
        }
        with self._step("Migrations and topics"):
            self._run_once("migrate")
        self._services = self._planned_services()
        self._start_services()
        self._seed_personas()
        if self._engines.loses_records("broker") and not self._engines.database_is_new:
            self._recover()
        self._write_stack()
        self._greet(time.monotonic() - began)

    def watch(self) -> NoReturn:
        """Keep everything running; ends only by an exception, DirectoryGoneError once its directory was deleted."""
        while True:
            time.sleep(_LOOK_SECONDS)
            self._directory.ensure_there()
            changed = False
            for name in self._engines.dead():
                self._replace_engine(name)
                changed = True
            changed |= self._supervisor.look_after(time.monotonic())
            if changed:
                self._write_stack()

    def stop(self) -> None:
        """Stop the gateway, let running calls end (10 s) and their results be folded, then stop the engines."""
        self._directory.remove_stack()
        if not self._engines.pids() and not self._supervisor.pids():
            return
        if "gateway" in self._supervisor.pids():
            self._say(f"Stopping: the gateway first; running webhook calls have up to {_DRAIN_SECONDS:.0f} s to end.")
        self._supervisor.stop(["gateway"], _DRAIN_SECONDS)
        trackers = [program for program in self._services if program.name.startswith("tracker")]
        others = [program.name for program in self._services if program not in trackers]
        self._supervisor.stop(others, _DRAIN_SECONDS)
        if self._engines.keeps_nothing:
            # What is not in PostgreSQL when the embedded broker ends is done again at the next start.
            wait_until_folded(trackers, _FOLD_SECONDS)
        self._supervisor.stop([program.name for program in trackers], _DRAIN_SECONDS)
        self._supervisor.stop(["n8n"], 2)
        self._engines.stop()
        self._say("Everything has stopped.")

    def _kafka_artifacts(self) -> KafkaArtifacts | None:
        """What Apache Kafka is started from, if it is to run here."""
        if self._options.kafka is not None or self._options.broker == "embedded":
            return None
        with self._step("Apache Kafka's jars (Maven fetches 45 MB the first time)"):
            return kafka_artifacts(self._directory.logs / "maven.log", self._reaper)

    def _start_engines(self, n8n_port: int, artifacts: KafkaArtifacts | None) -> Addresses:
        database_url, kafka = self._options.database_url, self._options.kafka
        if database_url is None:
            with self._step("PostgreSQL on a Unix socket"):
                database_url = self._engines.start_postgres()
        if kafka is None:
            kafka = self._start_broker(artifacts)
        return Addresses(
            gateway_url=f"http://127.0.0.1:{self._options.port}",
            kafka=kafka,
            database_url=database_url,
            n8n_url=(self._options.n8n or f"http://127.0.0.1:{n8n_port}").rstrip("/"),
        )

    def _start_broker(self, artifacts: KafkaArtifacts | None) -> str:
        if artifacts is None:
            with self._step("Embedded broker (it keeps nothing on disk)"):
                return self._engines.start_embedded_broker()
        brokers: Literal[1, 3] = 1 if self._options.broker == "kafka" else 3
        with self._step("Apache Kafka" if brokers == 1 else "Apache Kafka, three brokers"):
            return self._engines.start_kafka(artifacts, brokers)

    def _planned_services(self) -> list[Program]:
        return [
            service_program(
                name, command, self._environment, self._options.port if command == "gateway" else free_port()
            )
            for name, command in service_names(self._options).items()
        ]

    def _seed_personas(self) -> None:
        wanted = wanted_personas(self._addresses.n8n_url, PERSONAS, CALLBACK_SECONDS)
        with self._step(f"{len(PERSONAS)} personas"):
            made, left = seed_personas(
                self._addresses.gateway_url,
                wanted,
                self._directory.made_personas(),
                lambda user: self._token(user, admin=True),
            )
            self._directory.keep_made_personas(made)
        if left:
            self._say(f"Left as they were set, with webhooks elsewhere: {', '.join(left)}.")

    def _start_services(self) -> None:
        """Start every service and wait until all are ready."""
        with self._step(f"Services {', '.join(program.name for program in self._services)}"):
            for program in self._services:
                self._supervisor.start(program)
            self._wait_until_ready()

    def _recover(self) -> None:
        with self._step("Unfinished sessions sent again"):
            self._run_once("recover")

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + _READY_SECONDS
        waiting = self._supervisor.programs()
        with httpx.Client(timeout=1, trust_env=False) as client:
            while waiting:
                self._engines.ensure_running()
                self._supervisor.look_after(time.monotonic())
                problems = what_is_not_ready(client, waiting)
                waiting = [program for program in waiting if program.name in problems]
                if waiting and time.monotonic() > give_up:
                    told = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
                    raise NotReadyError(
                        f"Not ready within {_READY_SECONDS:.0f} s: {told}. Their logs are in {self._directory.logs}."
                    )
                time.sleep(0.05)

    def _run_once(self, command: str) -> None:
        child = start_process(
            command,
            service_command(command),
            environment=self._environment,
            log_path=self._directory.logs / f"{command}.log",
            reaper=self._reaper,
        )
        run_to_end(child, _READY_SECONDS)

    def _replace_engine(self, name: str) -> None:
        self._engines.note_death(name)
        self._directory.ensure_there()
        if not self._engines.loses_records(name):
            self._engines.start_again(name)
            self._say(f"{name} was started again.")
            return
        self._say("What the broker held is gone: the services stop, topics are made again, the services start.")
        self._supervisor.stop([program.name for program in self._services], 3)
        self._engines.start_again(name)
        with self._step("Topics"):
            self._run_once("migrate")
        self._start_services()
        self._recover()

    def _token(self, user: str, *, admin: bool) -> str:
        return token_for(
            self._environment, self._environment["JWT_SECRET"], user, admin=admin, lifetime=_TOKEN_LIFETIME
        )

    def _write_stack(self) -> None:
        self._directory.write_stack(
            {
                "gatewayUrl": self._addresses.gateway_url,
                "kafkaBootstrap": self._addresses.kafka,
                "databaseUrl": self._addresses.database_url,
                "n8nUrl": self._addresses.n8n_url,
                **self._tokens,
                "processes": {**self._supervisor.pids(), **self._engines.pids()},
                "opsUrls": {program.name: program.ops_url for program in self._services},
                "kafkaSettings": self._engines.broker_settings,
            }
        )

    def _greet(self, seconds: float) -> None:
        for paragraph in greeting(
            self._addresses.gateway_url,
            self._addresses.kafka,
            self._tokens["userToken"],
            self._tokens["adminToken"],
            PERSONAS if self._options.n8n is None else (),
            self._directory.path,
            self._engines.database_directory,
            self._send_command(),
            seconds,
        ):
            self._say(paragraph)
        if self._options.n8n is not None and (why := why_silent(self._addresses.n8n_url)):
            self._say(
                f"\nNobody answers at {self._addresses.n8n_url} ({why}): messages to its personas fail until n8n runs "
                "there (`make n8n` starts one on this machine)."
            )

    def _send_command(self) -> str:
        path = self._directory.path
        is_default = path == default_data_directory().resolve()
        return f"{typed_command()} send Hello" + ("" if is_default else f" --data-dir {shlex.quote(str(path))}")

    def _say(self, text: str) -> None:
        show(self._console, text)

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        """Show that a step is under way, and that it is done."""
        began = time.monotonic()
        with self._console.status(title):
            yield
        self._console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - began:.1f} s[/]", highlight=False)
