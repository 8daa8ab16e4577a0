"""Students under soft labels that the tests of these and of teachers share."""

from student_parts import student as any_student

from manifoldgd.data import digits

SOFT = (
    "student/protocol=soft_small",
    "student.protocol.teacher.images_shown=15000",
    "student.protocol.teacher.learning_rate=0.2",
    "student.protocol.epochs=1",
    "student.width=8",
)


def student(*overrides, protocol="soft_small"):
    return any_student(f"student/protocol={protocol}", *overrides)


def small_student():
    return student(*SOFT[1:])


def few_digits():
    return digits(train_per_class=30, validation=None)
