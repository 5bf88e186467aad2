"""Contract under test: the index of the trunk finds the same match as a look-up that reads the
whole trunk. This holds at every length, even if the index has read beyond it (index_main.cc)."""


def test_it_finds_what_reading_the_whole_trunk_finds(programs):
    program = programs.build(
        "index_main", ["decode/auto/trunk_index.cc", "core/memory.cc"], programs.plain
    )
    done = programs.run(program, 2000)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 100_000
