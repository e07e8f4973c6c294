"""Which rows run next: prompts in parts, rows sent back where blocks run out, a step ahead of results."""

from types import SimpleNamespace


class Request:
    def __init__(self, request_id, prompt, params, lora=None):
        self.request_id, self.prompt, self.params, self.lora = request_id, prompt, params, lora
        self.output = []
        self.computed = self.placeholders = self.blocks = 0
        self.finish_reason = None
        self.preempted = False

    @property
    def num_tokens(self):
        return len(self.prompt) + len(self.output)


class BlockPool:
    def __init__(self, count):
        self.num_gpu_blocks = count
        self.free = count - 1  # one is nobody's

    def get_num_free_blocks(self):
        return self.free


class Scheduler:
    def __init__(self, config):
        self.config = config
        self.pool = BlockPool(config.cache_config.num_gpu_blocks)
        self.kv_cache_manager = SimpleNamespace(block_pool=self.pool)
        self.waiting, self.running, self.requests = [], [], {}
        self.finished = []  # ids that the model's runner has not heard of
        self.ahead = config.scheduler_config.async_scheduling

    def add(self, request):
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def has_requests(self):
        return bool(self.running or self.waiting or self.finished)

    def finish(self, request, reason):
        request.finish_reason = reason
        for queue in (self.running, self.waiting):
            if request in queue:
                queue.remove(request)
        self._free(request)
        self.finished.append(request.request_id)
        del self.requests[request.request_id]

    def _free(self, request):
        self.pool.free += request.blocks
        request.blocks = 0

    def _allocate(self, request, tokens):
        wanted = -(-tokens // self.config.cache_config.block_size) - request.blocks
        if wanted > self.pool.free:
            return False
        self.pool.free -= wanted
        request.blocks += wanted
        return True

    def _next(self):
        """Return the first that waits for nothing but room; an adapter beyond those that fit waits for them."""
        loras = {item.lora for item in self.running} - {None}
        most = self.config.scheduler_config.max_loras
        return next((item for item in self.waiting if not item.lora or len(loras | {item.lora}) <= most), None)

    def schedule(self):
        """Return {id: new tokens}, those that are new or come again, and those that have left."""
        budget = self.config.scheduler_config.max_num_batched_tokens
        scheduled, came, preempted = {}, [], False
        index = 0
        while index < len(self.running) and budget:
            request = self.running[index]
            last = len(request.prompt) + request.params.max_tokens
            if request.placeholders and request.computed + 2 - request.placeholders >= last:
                index += 1
                continue
            tokens = min(request.num_tokens + request.placeholders - request.computed, budget)
            if not tokens:
                index += 1
                continue
            while not self._allocate(request, request.computed + tokens):
                victim = self.running.pop()
                budget += scheduled.pop(victim.request_id, 0)
                self._free(victim)
                victim.computed, victim.preempted, preempted = 0, True, True
                self.waiting.insert(0, victim)
                if victim is request:
                    break
            if request.blocks:
                scheduled[request.request_id] = tokens
                budget -= tokens
                index += 1
        while budget and not preempted and (request := self._next()):
            if len(self.running) == self.config.scheduler_config.max_num_seqs:
                break
            tokens = min(request.num_tokens - request.computed, budget)
            if not self._allocate(request, request.computed + tokens):
                break
            self.waiting.remove(request)
            self.running.append(request)
            came.append(request)
            scheduled[request.request_id] = tokens
            budget -= tokens
        starts = {name: self.requests[name].computed for name in scheduled}
        for name, tokens in scheduled.items():
            request = self.requests[name]
            request.computed += tokens
            if self.ahead and request.computed >= request.num_tokens + request.placeholders:
                request.placeholders += 1
        finished, self.finished = self.finished, []
        return SimpleNamespace(tokens=scheduled, starts=starts, came=came, finished=finished)

    def update(self, sampled):
        """Take {id: token}; return the requests that this has ended."""
        ended = []
        for name, token in sampled.items():
            request = self.requests.get(name)
            if request is None:
                continue
            request.output.append(token)
            request.placeholders -= self.ahead
            if token in request.params.stop_token_ids:
                self.finish(request, "stop")
            elif len(request.output) == request.params.max_tokens or self._is_full(request):
                self.finish(request, "length")
            else:
                continue
            ended.append(request)
        return ended

    def _is_full(self, request):
        return request.num_tokens >= self.config.model_config.max_model_len
