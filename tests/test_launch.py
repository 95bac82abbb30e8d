"""What the launcher decides before it starts a process."""

import socket

from refold.launch import free_port


def test_ports_are_free_and_none_that_the_system_hands_out():
    ports = {free_port() for _ in range(50)}
    assert len(ports) > 40  # drawn, so that two jobs started together do not meet
    assert all(20_000 <= port < 32_768 for port in ports)


def test_a_taken_port_is_not_chosen(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        drawn = iter([taken.getsockname()[1] - 20_000, 7_123])
        monkeypatch.setattr("refold.launch.secrets.randbelow", lambda _: next(drawn))
        assert free_port() == 27_123
