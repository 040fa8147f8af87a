from leanlens.machine import describe_machine, processor_name


def test_the_machine_has_a_name():
    assert processor_name()
    assert describe_machine()
