package strongroom.spark;

import org.apache.spark.SparkContext;
import org.apache.spark.resource.ResourceProfile;
import org.apache.spark.scheduler.ExecutorDecommissionInfo;
import org.apache.spark.scheduler.ExecutorProcessLost;
import org.apache.spark.scheduler.TaskSchedulerImpl;
import org.apache.spark.scheduler.cluster.CoarseGrainedSchedulerBackend;
import scala.Option;
import scala.Tuple2;
import scala.collection.Iterator;
import scala.collection.immutable.Map;
import scala.collection.immutable.Seq;
import scala.concurrent.Future;
import scala.concurrent.Future$;

/**
 * Tells the attested process beside this JVM how many executors Spark wants, and which of them it lets go.
 *
 * <p>It starts nothing and admits nobody: more executors come only if more workers prove themselves.
 */
public final class AttestedSchedulerBackend extends CoarseGrainedSchedulerBackend {
  private final boolean elastic;

  AttestedSchedulerBackend(SparkContext context, TaskSchedulerImpl scheduler) {
    super(scheduler, context.env().rpcEnv());
    elastic = context.conf().getBoolean("spark.dynamicAllocation.enabled", false);
  }

  /** Asks for as many executors as Spark wants in all; refused where the number is fixed. */
  @Override
  public Future<Object> doRequestTotalExecutors(Map<ResourceProfile, Object> wanted) {
    if (elastic) {
      long total = 0;
      for (Iterator<Object> counts = wanted.valuesIterator(); counts.hasNext(); ) {
        total += ((Number) counts.next()).longValue();
      }
      ParentLine.say("wanted", total);
    }
    return Future$.MODULE$.successful(elastic);
  }

  /** Has the workers of these executors stopped. */
  @Override
  public Future<Object> doKillExecutors(Seq<String> executors) {
    each("dismiss", executors);
    return Future$.MODULE$.successful(true);
  }

  /** Decommissions as Spark does, and tells that the workers of these executors will leave. */
  @Override
  public Seq<String> decommissionExecutors(
      Tuple2<String, ExecutorDecommissionInfo>[] chosen, boolean adjust, boolean byExecutor) {
    Seq<String> leaving = super.decommissionExecutors(chosen, adjust, byExecutor);
    each("leaving", leaving);
    return leaving;
  }

  /** Takes an executor for lost whose worker is known to be gone, without waiting for its heartbeats to fail. */
  public void forget(String executor) {
    removeExecutor(executor, new ExecutorProcessLost("its worker is gone", Option.empty(), false));
  }

  @Override
  public void stop() {
    ParentLine.say("wanted", 0);
    super.stop();
  }

  private static void each(String word, Seq<String> executors) {
    for (Iterator<String> ids = executors.iterator(); ids.hasNext(); ) {
      ParentLine.say(word, Long.parseLong(ids.next()));
    }
  }
}
