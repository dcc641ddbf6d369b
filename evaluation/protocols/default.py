"""`default`: any objects, any views; what every run of the pipeline is scored with unless it says otherwise."""

from evaluation.protocols.base import Protocol

DEFAULT = Protocol()
