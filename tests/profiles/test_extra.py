import pytest

from lavit_deploy.common.errors import MissingDependencyError
from lavit_deploy.profiles.extra import profile_extra


def test_other_missing_modules_are_faults_of_the_program():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), profile_extra("try"):
        import no_such_module  # noqa: F401 - it does not exist


@pytest.mark.parametrize("module", ["fvcore", "transformers.models.pvt"])
def test_a_missing_package_of_the_extra_is_a_message_that_says_what_for(module):
    package = module.partition(".")[0]
    with (
        pytest.raises(MissingDependencyError, match=rf"{package}.*draw.*lavit-deploy\[profile\]"),
        profile_extra("draw"),
    ):
        raise ModuleNotFoundError(name=module)
