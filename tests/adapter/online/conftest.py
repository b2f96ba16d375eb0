from tests.valkey import redis_url

__all__ = ["redis_url"]
