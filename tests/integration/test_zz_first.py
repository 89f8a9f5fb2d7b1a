import asyncio, time, traceback
import pytest
from tests.integration.tracker_process import *
from services.runtime.shutdown import Shutdown
from tests.sample_events import SessionEvents

@pytest.fixture
def bootstrap(tmp_path, reaper):
    with own_broker(tmp_path, reaper) as b:
        yield b

async def test_first(tmp_path, reaper, postgres_url):
    running_broker = start_broker(free_port(), tmp_path/"b.log", reaper)
    await create_topics(settings_for(running_broker.bootstrap))
    sh = Shutdown()
    settings = TrackerSettings(kafka_bootstrap_servers=running_broker.bootstrap, kafka_idempotence=False, kafka_session_timeout_ms=1000, kafka_fetch_max_wait_ms=50, database_url=SecretStr(postgres_url), ops_port=free_port())
    task = asyncio.create_task(serve(settings, sh))
    await Tracker(settings.ops_port).until_ready()
    e = SessionEvents()
    await publish_events(running_broker.bootstrap, [e.sent()])
    await until_value(postgres_url, "SELECT count(*) FROM chat_sessions", 1)
    running_broker.process.stop(0)
    t0=time.monotonic()
    sh.request()
    for i in range(100):
        done, _ = await asyncio.wait([task], timeout=3)
        if done: break
        print("----", time.monotonic()-t0)
        def chain(t):
            c = t.get_coro()
            while c is not None:
                f = getattr(c, "cr_frame", None) or getattr(c,"gi_frame",None)
                if f: print("   ", f.f_code.co_filename[-50:], f.f_lineno, f.f_code.co_name)
                c = getattr(c, "cr_await", None) or getattr(c,"gi_yieldfrom",None)
        chain(task)
    print("ended", time.monotonic()-t0, sh.exit_code)
