"""Starts a local Ray cluster that serves the demo pair. Runs in an environment that has Ray.

The program's arguments are the port, then the options of `sbrt.server.ray:app` as KEY=VALUE. The
program prints "ready", and ends when its standard input ends.
"""

import sys

import ray
from ray import serve

from sbrt.server.ray import app


def main() -> None:
    port, *given = sys.argv[1:]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(app(dict(word.split("=", 1) for word in given)))
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


main()
