"""Settings of nbgrader, which looks for this file in the folder where it is called."""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "maml"
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("no answer so far")'}
c.ClearSolutions.text_stub = "*Your answer.*"
c.ExecutePreprocessor.timeout = 120  # seconds a cell
