"""What a failed call to the tracking server means: the server is lost for now, or the call can never succeed."""

import requests
import urllib3
from mlflow.exceptions import MlflowException

from infra.errors import UserError

# Of MLflow's error codes, those that a server gives for what it will never do. A lost connection is INTERNAL_ERROR to its client.
FINAL = {
    *("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE", "BAD_REQUEST"),
    *("RESOURCE_CONFLICT", "NOT_IMPLEMENTED", "FEATURE_DISABLED", "NOT_FOUND", "MALFORMED_REQUEST"),
}


def is_final(error: Exception) -> bool:
    """Whether the same call would fail in the same way when it is made again."""
    if isinstance(error, MlflowException):
        return error.error_code in FINAL
    if isinstance(error, requests.RequestException):  # some of which are ValueErrors
        return False
    return isinstance(error, (UserError, TypeError, ValueError, LookupError, AttributeError))


def is_lost(error: Exception) -> bool:
    """Whether the server did not answer, or said that it cannot now: refused or broken connections, timeouts, status 5xx and 429, and
    authentication, which comes back when a token is renewed."""
    if isinstance(error, MlflowException):
        return error.error_code not in FINAL
    return isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError))
