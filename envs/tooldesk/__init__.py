"""A customer-service desk on SQLite, with rules that a friendly agent would like to break."""

from milepost.envs.tooldesk import env as env
