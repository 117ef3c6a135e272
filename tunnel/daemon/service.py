"""tunneld: one tunnel as a service. Command line in, exit code out.

    parse, read the configuration, choose provider and policy     errors: one line, exit 2, 3 or 5
    --check: print and end
    harden, look at privileges, go to the background if asked     exit 4 or 5
    control socket, session, signals, until something ends it     exit 0, or 1 and the reason

Modules that cost time or memory are imported where they are first needed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunnel.daemon import background
from tunnel.daemon.options import parse
from tunnel.daemon.plan import (
    Plan,
    binding_policy,
    make_plan,
    make_policy,
    read_config,
    rebound,
    with_key,
)
from tunnel.daemon.proxies import Proxies
from tunnel.daemon.status import ENDED
from tunnel.errors import TunnelError, UsageError
from tunnel.provider import StopReason

if TYPE_CHECKING:
    import logging

    from tunnel.config import Config
    from tunnel.daemon.machine import Machine
    from tunnel.daemon.session import TunnelSession


def main() -> None:
    """Run tunneld; the console script."""
    gc.disable()  # until the start is over: importing makes objects, and hardly any garbage
    background.open_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run tunneld to its end and return its exit code (contract.md)."""
    return _guarded(functools.partial(_run, arguments), debug="debug" in arguments)


def _guarded(work: Callable[[], int], *, debug: bool) -> int:
    """Turn every error into one line and an exit code; a traceback only when debugging."""
    try:
        return work()
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # whoever read our output has gone, as in `tunneld --check | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except TunnelError as error:
        line, code = str(error), error.exit_code
        problem: BaseException = error
    except Exception as error:
        line, code = f"internal error: {type(error).__name__}: {error}", 1
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            line = f"{error.strerror}; raise the limit (`ulimit -n`, LimitNOFILE=)"
        problem = error
    if debug:
        import traceback

        traceback.print_exception(problem)
    print("tunneld:", " ".join(line.split("\n")), file=sys.stderr)
    return code


def _run(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options is None:
        return 0
    plan = make_plan(options)
    if options.check:
        from tunnel.daemon.check import check

        print("\n".join(check(plan)), flush=True)
        return 0
    background.harden()
    machine_for(plan).check()
    if not options.userspace:
        from tunnel.policy.dnsapply.leftover import recover

        recover(lambda line: print(f"tunneld: {options.name}: {line}", file=sys.stderr))
    plan = with_key(plan)
    if not options.background:
        return serve(plan, lambda: None)
    debug = options.log_level == "debug"
    return background.in_background(
        lambda ready: _guarded(functools.partial(serve, plan, ready), debug=debug)
    )


def machine_for(plan: Plan) -> Machine:
    """Return what the session asks things of: this machine, or nothing of it."""
    if plan.options.userspace:
        from tunnel.daemon.userspace import UserspaceMachine

        return UserspaceMachine(plan.config.interface.mtu)
    from tunnel.daemon.machine import Machine

    return Machine(plan.options.without)


# ---- running ----


def serve(plan: Plan, ready: background.Ready) -> int:
    """Run the tunnel until it ends. Raises what ended it, if that was a failure."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Service(plan, ready).live())


class _Service:
    """One tunneld between its start and its end."""

    def __init__(self, plan: Plan, ready: background.Ready) -> None:
        from tunnel.daemon.lines import open_log
        from tunnel.daemon.session import TunnelSession

        self.plan = plan
        self.name = plan.options.name
        self.ready = ready
        self.log: logging.Logger = open_log(self.name, plan.options.log_level)
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopping = False
        self.started = asyncio.Event()  # or ended
        self.session: TunnelSession = TunnelSession(
            plan.provider(),
            config=plan.config,
            name=self.name,
            policy=plan.policy,
            workers=plan.options.workers,
            manage=plan.managed,
            options={
                "crypto": plan.options.crypto,
                "without": plan.options.without,
                "real_time": plan.options.realtime,
            },
            machine=machine_for(plan),
            log=self.log,
        )
        self.proxies = Proxies(plan.config.proxy, self.log)

    async def live(self) -> int:
        from tunnel.daemon.control import ControlServer

        handlers = {
            "status": self._status,
            "stats": self._stats,
            "path": self._path,
            "reload": self._reload,
            "set": self._set,
            "down": self._down,
            "message": self._message,
            "killswitch": self._kill_switch,
        }
        asyncio.get_running_loop().set_exception_handler(self._stumbled)
        control = ControlServer(self.name, handlers, log=self.log)
        self._listen_to_signals()
        await control.start()
        try:
            await self.proxies.take_ports()
            self._warn(self.plan.config)
            if self.stopping:
                return 0
            await self.session.start()
            if self.session.status not in ENDED:  # as after a signal during the start
                await self._open_proxies()
                self._announce()
            self.started.set()
            await self.session.wait_stopped()
        finally:
            self.started.set()
            background.notify("STOPPING=1")
            await self.proxies.aclose()
            await control.close()
        return 0

    async def _open_proxies(self) -> None:
        if self.plan.options.userspace and self.proxies.none_wanted:
            self.log.warning("nothing leads into the tunnel; --socks5, for one, would")
        try:
            await self.proxies.start(self.session)
        except TunnelError:
            await self.session.stop(StopReason.CONFIGURATION_FAILED)
            raise

    def _warn(self, config: Config) -> None:
        for warning in config.warnings:
            self.log.warning("warning: %s", warning)

    def _announce(self) -> None:
        """Say that the start is over, to whoever waits for that."""
        from tunnel.daemon.lines import use_system_log

        self.log.info("ready; `tunnelctl status %s` shows more", self.name)
        if self.plan.options.background:
            use_system_log(self.log, self.name)
        gc.freeze()
        gc.enable()
        self.ready()
        background.notify("READY=1")

    def _stumbled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take an error that no caller was there for: one line, and the tunnel goes on."""
        error = context.get("exception")
        self.log.error("internal error: %s: %r", context["message"], error)
        self.log.debug("traceback", exc_info=error)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._begin, self._reload_for_signal)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _stop(self) -> None:
        self.stopping = True
        await self.session.stop()

    async def _reload_for_signal(self) -> None:
        try:
            await self._reload({})
        except Exception as error:
            self.log.error("reload: %s", error)

    # ---- requests of the control socket ----

    async def _status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self.session.report()

    async def _stats(self, request: Mapping[str, Any]) -> dict[str, Any]:
        rules = self.session.barrier.report()["rules"]  # of the kill switch; none while it is open
        return {**self.session.stats(), "rules": rules}

    async def _path(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from tunnel.daemon.pathreport import path_view

        return path_view(self.session)

    async def _down(self, request: Mapping[str, Any]) -> dict[str, Any]:
        await self.session.stop()
        return self.session.report()

    async def _reload(self, request: Mapping[str, Any]) -> dict[str, Any]:
        options = self.plan.options
        if options.config is None:
            raise UsageError("there is no --config to read again; use `wg set` or `wg syncconf`")
        await self.started.wait()
        if self.stopping or self.session.status in ENDED:
            raise TunnelError(f"{self.name}: the tunnel is ending; start it again")
        fresh = read_config(options, need_key=self.plan.provider.uses_private_key)
        old = self.session.config.proxy
        try:
            await self.proxies.follow(fresh.proxy, self.session)
            await self.session.reload(fresh, make_policy(fresh, options))
        except BaseException:
            await self.proxies.follow(old, self.session)
            raise
        self._warn(fresh)
        self.log.info("reloaded %s", options.config)
        return self.session.report()

    async def _set(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Change the binding until the next reload; the tunnel stays up."""
        from dataclasses import replace

        session = self.session
        binding = rebound(session.config.binding, request)
        policy = binding_policy(binding, {})
        session.config = replace(session.config, binding=binding)
        await session.set_policy(policy)
        return session.report()

    async def _kill_switch(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from tunnel.daemon.killswitchctl import serve

        return await serve(self.session, request, managed=self.plan.managed)

    async def _message(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            message = base64.b64decode(request.get("message", ""), validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise UsageError("message: send `message` as base64") from error
        answer = await self.session.provider.handle_app_message(message)
        return {"answer": None if answer is None else base64.b64encode(answer).decode()}
